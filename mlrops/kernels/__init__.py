"""How structured matrices are computed fast: leaf products and tree sweeps on plain arrays.

Nothing here knows a class.  The compiled modules are loaded on first use, so that importing the
package neither imports numba nor compiles anything.

Sweeps of a tree are four operations, which `parts` has: up, merge, root and down.  Threads take
parts of a tree by them, and so may machines.

One layout serves every kernel.  The rows of the compact factors ``F (n, R)`` are in tree order, a
leaf is the slice ``leaf_off[q]:leaf_off[q + 1]``, and level l owns the columns
``cols[l]:cols[l + 1]``.  A *node* is one group of one level; node g of level l owns the rows
``zoff[l] + g r_l, …`` of every node array, so that the spread-out factor dimension is
``s = Σ p_l r_l``.  Right-hand sides travel through the tree as ``(R, k)`` blocks, one a leaf.
"""

from .._common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, modules=(
    "curvature", "groups", "information", "layout", "leaf", "paired", "parts", "qr", "residual",
    "root", "scratch", "threads", "tree", "vectors"))
