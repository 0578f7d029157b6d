"""What rounding leaves of results that come from the factor of ``P = I + FᵀD⁻¹F`` of an `MLR`.

The Cholesky factor of P is exact for a matrix whose entries differ from those of P by
``eps √(P_ii P_jj)``.  A pivot c² that is left of a diagonal entry P_jj has lost ``P_jj / c²`` units
of rounding, a posterior variance C_jj of the factors ``C_jj P_jj`` of them: the scaled condition of
P, however large P itself is.  Results that could be off by more than `PROMISED` are refused.
Solves measure their backward error instead; see `refine`.
"""

import math
from contextlib import suppress
from functools import partial

import numpy as np

from .. import kernels
from .._common.wording import name_some
from .refine import column_dots, corrected, of_size_one

__all__ = ["check_left", "check_logdet", "check_quad", "checked_root",
           "diagonal_sizes", "inv_quad", "inverse_loss", "norms", "refused", "solve", "tree_root",
           "unexplained"]


# The relative error that a result may have.  The estimates err on the safe side, by 10 or so.
PROMISED = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 3e-3}

# A pivot's logarithm moves by so many times what the pivot has lost: it inherits from others.
_LOGS = 20
# The same of what the factors explain of a feature.
_PARTIAL = 4
# What two vectors show may be more for others.
_MARGIN = 10
# And of a quadratic form.
_QUAD = 30
# Right-hand sides at a time.
_BLOCK = 64


def refused(A, verb, loss, reason=""):
    """The LinAlgError of a result that could be off by `loss`."""
    return np.linalg.LinAlgError(
        f"{verb}: rounding could move the result by {loss:.1e}{reason}, relatively; {A!r} in"
        f" {A.dtype} promises {PROMISED[A.dtype]:.0e}: D is too small beside F; take a larger D"
        + (", or float64" if A.dtype == np.float32 else ""))


def diagonal_sizes(K, layout):
    """The diagonal of P and its pivots, each (s,), from the factor K of `kernels.tree.factor`."""
    sizes, pivots = np.empty((2, layout.s))
    below = None  # squares of the rows X of all descendants, summed over each group
    for level in range(layout.L - 1, -1, -1):
        lo, hi = int(layout.cols[level]), int(layout.cols[level + 1])
        own = slice(int(layout.zoff[level]), int(layout.zoff[level + 1]))
        groups = int(layout.path[-1, level]) + 1
        rows = K[own].reshape(groups, hi - lo, layout.R)
        if below is not None:  # gathered from the level below
            starts = np.searchsorted(layout.path[:, level], np.arange(groups))
            child = layout.path[starts, level + 1]
            below = np.add.reduceat(below, child, axis=0)
        squares = np.square(rows[:, :, lo:hi], dtype=np.float64).sum(axis=2)
        if below is not None:
            squares += below[:, lo:hi]
        sizes[own] = squares.ravel()
        pivots[own] = np.square(
            np.einsum("gii->gi", rows[:, :, lo:hi]), dtype=np.float64).ravel()
        passed = np.square(rows[:, :, :lo], dtype=np.float64).sum(axis=1)
        below = passed if below is None else passed + below[:, :lo]
    return sizes, pivots


def check_logdet(A, D, factors, gained):
    """``log det D``, where the logarithm of P's, `gained`, leaves the sum its digits.

    P is that of so many factors; D and A._F in one order.
    """
    eps, F = np.finfo(A.dtype).eps, A._F
    logs = np.log(D, dtype=np.float64)
    total = logs.sum()
    size = max(abs(total + gained), 0.05 * (np.abs(logs).sum() + gained), 1.0)
    unit = _LOGS * eps / size
    small = False
    if 8 * factors > len(F):  # then a bound is cheaper: each P_jj / c² is at most P_jj
        largest = 1 + len(F) * float(max(F.max(), -F.min())) ** 2 / float(D.min())
        small = unit * factors * largest <= PROMISED[A.dtype]
    if not small:
        sizes, pivots = A._sizes
        loss = unit * float((sizes / pivots).sum())
        if not loss <= PROMISED[A.dtype]:
            raise refused(A, "logdet", loss)
    return total


def inverse_loss(A, above, norm, product, multiply):
    """What rounding does to ``product``, with Σ⁻¹, tried on two vectors where `above` asks for it.

    Its residual in units of the backward error, `norm` a lower bound of ‖Σ‖.  Where D is small and
    ‖Σ⁻¹‖ is not, products that start from 1/D cancel.
    """
    if above * np.finfo(A.dtype).eps <= PROMISED[A.dtype] / 100:
        return 0.0
    v = np.random.default_rng(0).standard_normal((A.shape[0], 2)).astype(A.dtype)
    with np.errstate(all="ignore"):
        x = product(v)
        loss = _MARGIN * float(np.linalg.norm(v - multiply(x)) / (
            norm * np.linalg.norm(x) + np.linalg.norm(v)))
    return loss if np.isfinite(loss) else math.inf


def unexplained(A, check=True):
    """``D_i (Σ⁻¹)_ii``, the share of D in the partial variances, (n,) in tree order.

    Without `check`, at least eps: for what has to go on, such as preconditioners.
    """
    eps = np.finfo(A.dtype).eps
    if not A._layout.R:
        return np.ones_like(A._d)
    layout = A._layout
    cov = kernels.tree.path_covariance(A._factor[0], layout)
    explained = kernels.curvature.explained(A._F, A._d, cov, layout)
    left = 1 - explained
    if not check:
        return np.maximum(left, eps)
    # An error E of P moves f C fᵀ by f C E C fᵀ, f = F_i D_i^{-1/2}; entries √(P_jj P_kk) of random
    # signs make that f C diag(P) C fᵀ.  Rounding in C itself moves it by f diag(C) fᵀ.
    sizes = np.ones(cov.shape[:2])
    for level in range(layout.L):
        lo, hi = int(layout.cols[level]), int(layout.cols[level + 1])
        own = A._sizes[0][int(layout.zoff[level]):int(layout.zoff[level + 1])]
        sizes[:, lo:hi] = own.reshape(-1, hi - lo)[layout.path[:, level]] if hi > lo else 1
    spread = np.einsum("qii->qi", cov) * sizes  # C_jj P_jj: bounds of all that
    rough = np.repeat(2 * spread.sum(axis=1), np.diff(layout.leaf_off))
    if (_PARTIAL * eps * rough <= PROMISED[A.dtype] * left).all():
        return left
    moved = np.matmul(cov * sizes[:, None].astype(cov.dtype), cov)
    np.einsum("qii->qi", moved)[...] += np.einsum("qii->qi", cov)
    moved = kernels.curvature.explained(A._F, A._d, moved, layout)
    doubtful = np.flatnonzero(~(_loss_left(A, moved) <= PROMISED[A.dtype] * left))
    if not doubtful.size:
        return left
    left = left.copy()
    for part in np.array_split(doubtful, -(-doubtful.size // _BLOCK)):
        with suppress(np.linalg.LinAlgError):  # then what there is is refused, by name
            left[part], moved[part] = _left_by_solves(A, part)
    check_left(A, left, moved, A._hierarchy.permutation, "partial variance")
    return left


def _left_by_solves(A, rows):
    """``D_i (Σ⁻¹)_ii`` of some rows by solves, and how many units of rounding they are off by.

    A solve corrects itself; one more says what it left, which is added.
    """
    own = rows, np.arange(rows.size)
    unit = np.zeros((len(A._d), rows.size), A.dtype)
    unit[own] = 1
    x = solve(A, unit)
    off = solve(A, unit - kernels.tree.multiply(A._F, A._d, x, A._layout))[own]
    d = A._d[rows]
    return d * (x[own] + off), np.abs(d * off) / (_PARTIAL * np.finfo(A.dtype).eps)


def _loss_left(A, moved):
    return _PARTIAL * np.finfo(A.dtype).eps * np.abs(moved)


def check_left(A, left, moved, features, verb):
    """Refuse ``1 - f C fᵀ`` of the features, (n,), where `moved` units of rounding are too many."""
    loss = _loss_left(A, moved)
    bad = np.flatnonzero(~(loss <= PROMISED[A.dtype] * left))
    if bad.size:
        worst = float(np.max(loss[bad] / np.maximum(left[bad], np.finfo(A.dtype).eps)))
        raise refused(A, verb, worst, " for " + (
            "feature " if bad.size == 1 else "features ") + name_some(np.sort(features[bad])))


# ---------------------------------------------------------------- solves and quadratic forms


def norms(A):
    """Bounds from the traces of the groups: of ‖P‖ and ‖F‖ above, of ‖Σ‖ below."""
    scaled, plain, below = 1.0, 0.0, float(A._diagonal().max())
    for level, (f, offsets) in enumerate(zip(
            np.split(A._F, A._layout.cols[1:-1], axis=1), A._hierarchy.boundaries, strict=True)):
        squares = np.einsum("ij,ij->i", f, f, dtype=np.float64)
        largest = np.add.reduceat(squares, offsets[:-1]).max()
        plain += largest
        below = max(below, largest / max(A._ranks[level], 1))
        scaled += np.add.reduceat(squares * A._dinv, offsets[:-1]).max()
    return scaled, math.sqrt(plain), below


def solve(A, b):
    """``Σ⁻¹ b`` for b (n, k) in tree order."""
    layout = A._layout

    def once(b, columns):
        x, z = kernels.tree.solve(A._F, A._dinv, A._factor[0], b, layout)
        return x, column_dots(z)

    def multiply(x, columns):
        return kernels.tree.multiply(A._F, A._d, x, layout)

    return of_size_one(lambda b: corrected(A, once, multiply, b, A._dinv, A._norms), b)


def inv_quad(A, x):
    """``xᵀ Σ⁻¹ x`` of the columns of x (n, k) in tree order."""
    return of_size_one(lambda x: _inv_quad(A, x), x, power=2)


def _inv_quad(A, x):
    # min over z of ‖D^{-1/2}(x - F z)‖² + ‖z‖², attained at the posterior mean: a sum of squares,
    # where xᵀD⁻¹x - ‖w‖² would cancel.
    y, z = kernels.tree.solve(A._F, A._dinv, A._factor[0], x, A._layout)
    squares = column_dots(z)
    quad = column_dots(y, weight=A._d) + squares  # x - F z = D y

    def cost(doubtful):
        mean = kernels.tree.up(A._F, np.ascontiguousarray(y[:, doubtful]), A._layout)
        return _QUAD * (1 / A._sizes[1]) @ np.square(z[:, doubtful] - mean, dtype=float)

    check_quad(A, quad, squares, column_dots(x, weight=A._dinv), A._norms[0], cost)
    return quad


def check_quad(A, quad, squares, scaled, above, cost):
    """Refuse quadratic forms that rounding could spoil.

    Rounding in z costs gᵀP⁻¹g of the minimum, g = z - Fᵀy, which ``cost(columns)`` measures where a
    bound asks for it: about Σ g² / pivots.  Rounding in D^{-1/2} y costs what cancels in x - F z.
    `squares` is ‖z‖², `scaled` ‖D^{-1/2}x‖², `above` a bound of ‖P‖.
    """
    eps = np.finfo(A.dtype).eps
    exact, squares, scaled = (np.atleast_1d(part).astype(float)
                              for part in (quad, squares, scaled))
    moved = math.sqrt(above) * np.sqrt(squares) + np.sqrt(scaled)
    positive = np.where(exact > 0, exact, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        loss = 2 * eps * moved / np.sqrt(positive)
        doubtful = np.flatnonzero(
            np.square(eps * math.sqrt(above) * moved) > PROMISED[A.dtype] * exact)
        if doubtful.size:
            loss[doubtful] += cost(doubtful) / positive[doubtful]
    loss = loss[np.isfinite(exact)]
    if not (loss <= PROMISED[A.dtype]).all():
        raise refused(A, "inv_quad", loss.max())


# ---------------------------------------------------------------- the square root


def checked_root(A, root, above, d, variances, multiply, color, color_transpose, whiten):
    """`root`, which the functions use, tried on two vectors where `above`, of ‖P‖, asks for it.

    S Sᵀ = Σ in units of standard deviations, and W S = I.
    """
    if above * np.finfo(A.dtype).eps <= PROMISED[A.dtype] / 100:
        return root
    v = np.random.default_rng(0).standard_normal((d.size, 2)).astype(A.dtype)
    deviation = np.sqrt(variances)[:, None]
    with np.errstate(all="ignore"):
        exact = multiply(v / deviation) / deviation
        error = color(color_transpose(v / deviation)) / deviation - exact
        losses = _ratio(error, exact), _ratio(whiten(color(v)) - v, v)
    loss = _MARGIN * max(losses)
    if not loss <= PROMISED[A.dtype]:
        raise refused(A, "square root", loss)
    return root


def tree_root(A):
    """The levels of `kernels.root`, checked."""
    root = kernels.root.square_root(A._F, A._d, A._hierarchy.boundaries, A._layout.cols)
    verbs = (partial(verb, root, A._d) for verb in (
        kernels.root.color, kernels.root.color_transpose, kernels.root.whiten))
    return checked_root(
        A, root, A._norms[0], A._d, A._d + np.einsum("ij,ij->i", A._F, A._F),
        lambda x: kernels.tree.multiply(A._F, A._d, x, A._layout), *verbs)


def _ratio(error, size):
    found = float(np.linalg.norm(error.astype(float)) / np.linalg.norm(size.astype(float)))
    return found if np.isfinite(found) else math.inf
