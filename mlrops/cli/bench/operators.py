"""Comparisons that need nothing but NumPy and SciPy: floors, recursion, sparse and dense."""

from types import SimpleNamespace

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import splu

from ...factor.estep.protocol import log_likelihood
from ...operators.mlr import MLR
from ...tree.hierarchy import Hierarchy
from .race import Race, same
from .recursion import Recursion

__all__ = ["against_dense", "against_floor", "against_recursion", "against_sparse", "em_floor"]

TIGHT = 1e-8


def draw(n, counts, ranks, N=0):
    """A tree in order, factors and variances, and N samples of their model, (N, n)."""
    rng = np.random.default_rng(0)
    h = Hierarchy.balanced(n, counts)
    F, D = rng.standard_normal((n, sum(ranks))), rng.uniform(0.5, 1.5, n)
    case = SimpleNamespace(h=h, ranks=ranks, F=F, D=D, rng=rng, x=rng.standard_normal(n))
    case.Y = operator(case).sample(N, rng) if N else None
    case.problem = (f"MLR, n = {n:,}, R = {sum(ranks)}, {counts[-1]:,} leaves"
                    + (f", N = {N}" if N else ""))
    return case


def wide(quick, N=0):
    """Few large leaves: the time goes into products that BLAS does as well."""
    return draw(2000 if quick else 100_000, (1, 2, 4, 8, 16, 32), (14, 12, 11, 11, 11, 10), N)


def narrow(n):
    """Leaves of ten features."""
    return draw(n, (1, max(n // 1000, 2), n // 100, n // 10), (3, 3, 3, 3))


def operator(case):
    """An `MLR` that has not been factored."""
    return MLR.from_compact(case.h, case.ranks, case.F, case.D, copy=False, check_finite=False)


def invert(case):
    """Factor, ``log det Σ`` and ``Σ⁻¹ x`` by ours."""
    A = operator(case)
    return A.logdet(), A.solve(case.x)


def em_step(case, X, squares, out):
    """F, D and the log-likelihood by ours.

    X (n, N), its sums of squares and `out`, the arrays for F and D, are made once a fit.
    """
    A = operator(case)
    posterior = A.posterior(X, check_finite=False)
    loglik = log_likelihood(A, posterior.total_inv_quad(squares), X.shape[1])
    return *posterior.regress(squares, out=out), loglik


def sampled(case):
    """What a fit makes of its data, once, and room for an iteration's F and D."""
    X = np.ascontiguousarray(case.Y.T)
    out = np.empty_like(case.F), np.empty_like(case.D)
    return X, np.einsum("ik,ik->i", X, X), out


def same_inverse(theirs, ours):
    """Of pairs (log det, solution)."""
    return same(TIGHT, logdet=(theirs[0], ours[0]), solve=(theirs[1], ours[1]))


def against_floor(quick, _):
    """Products that any method has to do, by BLAS; answers are compared with the recursion's."""
    case = wide(quick)
    A, F, x, z = operator(case), case.F, case.x, case.rng.standard_normal(case.F.shape[1])
    known = Recursion(case.h, case.ranks, F, case.D)

    def products():
        return F.T @ x, F @ z

    yield Race(case.problem, "A @ x", "floor: F.T @ x, F @ z", products, lambda: A @ x,
               lambda _, y: same(TIGHT, product=(known.multiply(x), y)))
    yield Race(case.problem, "factor + logdet", "floor: F.T @ F", lambda: F.T @ F,
               lambda: operator(case).logdet(),
               lambda _, logdet: same(TIGHT, logdet=(known.logdet, logdet)))
    A.logdet()
    yield Race(case.problem, "solve, factored", "floor: F.T @ x, F @ z", products,
               lambda: A.solve(x), lambda _, y: same(TIGHT, solve=(known.solve(x), y)))


def em_floor(quick, _):
    """The two products of an iteration; the outcome for a leaf is compared with the recursion's."""
    case = wide(quick, N=100 if quick else 280)
    data = sampled(case)
    Y, F, Z = case.Y, case.F, case.rng.standard_normal((case.F.shape[1], len(case.Y)))

    def compare(_, ours):
        known = Recursion(case.h, case.ranks, F, case.D)
        leaf = known.groups[-1][-1]
        pairs = zip("FD", known.update_leaf(Y, leaf), (x[leaf] for x in ours[:2]), strict=True)
        return same(TIGHT, **{name: (a, b) for name, a, b in pairs})

    yield Race(case.problem, "EM iteration", "floor: F.T @ Y.T, Z @ Y", lambda: (F.T @ Y.T, Z @ Y),
               lambda: em_step(case, *data), compare)


def against_recursion(quick, _):
    """See `Recursion`."""
    case = narrow(2000 if quick else 1_000_000)

    def theirs(case=case):
        S = Recursion(case.h, case.ranks, case.F, case.D)
        return S.logdet, S.solve(case.x)

    yield Race(case.problem, "factor + logdet + solve", "recursion in Python", theirs,
               lambda: invert(case), same_inverse)
    n, N = (200, 20) if quick else (10_000, 100)
    case = draw(n, (1, n // 100, n // 20), (3, 2, 1), N)
    data = sampled(case)
    yield Race(case.problem, "EM iteration", "recursion in Python",
               lambda: Recursion(case.h, case.ranks, case.F, case.D).em_step(case.Y),
               lambda: em_step(case, *data),
               lambda a, b: same(TIGHT, F=(a[0], b[0]), D=(a[1], b[1]), loglik=(a[2], b[2])))


def against_sparse(quick, _):
    """SuperLU of the expanded matrix, which it is given, with the options that suit it best."""
    case = narrow(1000 if quick else 100_000)
    E = operator(case).expanded_matrix()
    b = np.concatenate([case.x, np.zeros(E.shape[0] - case.x.size)])

    def theirs():
        lu = splu(E, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                  options={"SymmetricMode": True})
        # E has -I in its corner, and Σ as the Schur complement of it.
        return np.log(np.abs(lu.U.diagonal())).sum(), lu.solve(b)[: case.x.size]

    yield Race(case.problem, "factor + logdet + solve", "SciPy's sparse LU", theirs,
               lambda: invert(case), same_inverse)


def against_dense(quick, _):
    """LAPACK's Cholesky of Σ, which it is given."""
    case = narrow(400 if quick else 3000)
    dense = operator(case).toarray()

    def theirs():
        C = cho_factor(dense, lower=True, check_finite=False)
        return 2 * np.log(C[0].diagonal()).sum(), cho_solve(C, case.x, check_finite=False)

    yield Race(case.problem, "factor + logdet + solve", "dense Cholesky", theirs,
               lambda: invert(case), same_inverse)
