"""Files: `save` and `load` write and read objects as ``.npz`` files without pickles.

`storable` makes them take objects of a class of yours, too.

Layout of a file
----------------
A file is an archive of kind ``"object"``: a zip of plain ``.npy`` arrays and one JSON text,
``mlrops.json``, that names the format version (``help(mlrops.io.archive)`` has the details).  Its
``meta`` holds a list ``nodes``.  Parts come before the objects that they are parts of, and the last
node is the object itself.  A node is a JSON object with

``class``
    Name of a class in the table below; a class of a user's program is called by its module and
    name, see `storable`.
``values``
    Numbers, strings, tuples and None by the name of their field.
``arrays``
    By the name of the field the name of an array of the archive, or a list of such names.
``parts``
    By the name of the field the number of an earlier node, or a list of such numbers.
``read_only``
    Names of the fields of a dataclass whose arrays are read-only.  Arrays of other objects always
    are.

An object that is a part of several others is stored once, and is one object again after loading.
An array belongs to one node.

==========================================  ========================================================
class                                       fields
==========================================  ========================================================
Hierarchy                                   permutation, boundaries (L arrays), names
MLR                                         hierarchy, ranks, D (n,), F (n, R): **rows in tree
                                            order**, row i belongs to feature ``permutation[i]``
MLRInverse, WoodburyInverse                 base: the operator that is inverted; the inverse is
                                            formed anew by ``base.inv()``
GeneralMLR                                  rows, cols, ranks, B (m, R), C (n, R) or None for B:
                                            **rows in tree order**; symmetric; equal_to: None, or
                                            the MLR, Product or Scaled equal to it
LowRankPlusDiagonal                         F, D
Woodbury                                    base, U, C, V, positive_definite; C None for the
                                            identity, V None for U
LowRank                                     U, V; V None for U
Diagonal, Identity, Permutation             d; n and dtype; p and dtype
Dense                                       A, symmetric, positive_definite
Wrapped                                     data, indices, indptr of a csr_array, shape, symmetric,
                                            positive_definite
Sum, Product, Kronecker, BlockDiagonal      ops
Scaled                                      base, c
Transposed, Inverse                         base
transpose                                   base: stands for ``base.T``
FactorModelResult                           its dataclass fields
SURResult                                   X (the different regressors), X_of (which are whose), Y,
                                            observed, ...: those of its method `to_fields`
MLRFit, RankAllocation                      their dataclass fields
==========================================  ========================================================
"""

from typing import TYPE_CHECKING

from .._common.lazy import lazy_names

if TYPE_CHECKING:
    from .classes import storable
    from .saving import load, save

__all__ = ["load", "save", "storable"]

__getattr__, __dir__ = lazy_names(
    __name__, modules=("archive", "classes", "saving"),
    names={"load": "saving", "save": "saving", "storable": "classes"})
