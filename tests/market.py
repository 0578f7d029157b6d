"""One list of (name, operator, dense matrix): every kind of operator, for the laws to run over.

The dense matrix is always built from arrays by NumPy, never by asking the operator.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlrops.operators import (
    MLR,
    BlockDiagonal,
    Dense,
    Diagonal,
    GeneralMLR,
    Identity,
    Inverse,
    Kronecker,
    LowRank,
    LowRankPlusDiagonal,
    Permutation,
    Product,
    Scaled,
    StructuredOperator,
    Sum,
    Transposed,
    Woodbury,
    Wrapped,
)
from mlrops.tree.hierarchy import Hierarchy

TOLERANCE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 2e-4}


class Pair(NamedTuple):
    name: str
    operator: StructuredOperator
    dense: np.ndarray  # float64


def dense_permutation(p):
    P = np.zeros((len(p), len(p)))
    P[np.arange(len(p)), p] = 1
    return P


def dense_mlr(hierarchy, factors, D):
    out = np.diag(np.asarray(D, float))
    for level, F in enumerate(factors):
        labels = hierarchy.labels(level)
        F = np.asarray(F, float)
        out += (labels[:, None] == labels) * (F @ F.T)
    return out


def dense_general(rows, cols, left, right):
    out = np.zeros((rows.n, cols.n))
    for level, (B, C) in enumerate(zip(left, right, strict=True)):
        paired = rows.labels(level)[:, None] == cols.labels(level)
        out += paired * (np.asarray(B, float) @ np.asarray(C, float).T)
    return out


def dense_information(A, dense):
    """``½ tr(Σ⁻¹ dΣ_u Σ⁻¹ dΣ_v)`` for all pairs of entries of F, row by row, and of D."""
    h, n = A.hierarchy, len(dense)
    inverse, parts = np.linalg.inv(dense), []
    columns = [(level, k) for level, r in enumerate(A.ranks) for k in range(r)]
    for i in range(n):
        for c, (level, _) in enumerate(columns):
            part = np.zeros((n, n))
            part[i] = np.where(h.labels(level) == h.labels(level)[i], A.F[:, c], 0)
            parts.append(inverse @ (part + part.T))
    for i in range(n):
        part = np.zeros((n, n))
        part[i, i] = 1
        parts.append(inverse @ part)
    return np.einsum("uij,vji->uv", np.array(parts), np.array(parts), optimize=True) / 2


def tree_pairs():
    """Name and (rows, cols, ranks): permuted unlike, unequal groups, rank 0, one-wide groups."""
    p = [4, 0, 7, 2, 6, 1, 5, 3]
    square = Hierarchy(p, [[0, 8], [0, 3, 8], [0, 1, 3, 5, 8]])
    singles = Hierarchy(p, [[0, 8], [0, 3, 8], list(range(9))])
    return {
        "diagonal level": (singles, singles, (1, 2, 1)),
        "full leaves": (square, square, (1, 1, 3)),
        "unlike leaves": (square, Hierarchy(p[::-1], [[0, 8], [0, 4, 8], [0, 2, 4, 6, 8]]),
                          (2, 2, 2)),
        "rank 0 level": (Hierarchy.balanced(6, [1, 2, 6]), Hierarchy.balanced(6, [1, 2, 6]),
                         (0, 2, 1)),
        "singular by rank": (square, square, (1, 1, 0)),
        "singular without factors": (Hierarchy.flat(3), Hierarchy.flat(3), (0,)),
        "one entry": (Hierarchy.flat(1), Hierarchy.flat(1), (2,)),
        "wide": (Hierarchy([2, 0, 3, 1], [[0, 4], [0, 1, 4], [0, 1, 2, 4]]),
                 Hierarchy([6, 2, 4, 0, 1, 5, 3], [[0, 7], [0, 5, 7], [0, 5, 6, 7]]), (1, 0, 2)),
        "tall forest": (Hierarchy([6, 2, 4, 0, 1, 5, 3], [[0, 5, 7], [0, 2, 5, 7]]),
                        Hierarchy.from_boundaries([[0, 2, 4], [0, 1, 2, 4]]), (1, 2)),
    }


def trees():
    """Name and (hierarchy, ranks): permuted features, unequal leaves, rank 0, groups of one."""
    p = [4, 0, 7, 2, 6, 1, 5, 3]
    return {
        "permuted": (Hierarchy(p, [[0, 8], [0, 3, 8], [0, 1, 3, 5, 8]]), (1, 2, 1)),
        "rank 0 level": (Hierarchy(p, [[0, 8], [0, 4, 8], [0, 2, 4, 8]]), (2, 0, 1)),
        "no top group": (Hierarchy(p[::-1], [[0, 5, 8]]), (2,)),
        "groups of one": (Hierarchy(p, [[0, 8], list(range(9))]), (1, 2)),
        "no factors": (Hierarchy.flat(5), (0,)),
        "one feature": (Hierarchy.flat(1), (1,)),
    }


class Bench:
    """Random arrays of one dtype, the same ones every time."""

    def __init__(self, dtype, seed=0):
        self.dtype, self.rng = np.dtype(dtype), np.random.default_rng(seed)

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def positive(self, n):
        return self.rng.uniform(0.5, 2, n).astype(self.dtype)

    def spd(self, n):
        X = self.normal(n, n)
        A = X @ X.T / n + np.eye(n, dtype=self.dtype)
        return (A + A.T) / 2

    def regular(self, n):
        """Unsymmetric and well-conditioned."""
        return self.normal(n, n) / 4 + 2 * np.eye(n, dtype=self.dtype)

    def mlr(self, hierarchy, ranks):
        factors = [self.normal(hierarchy.n, r) for r in ranks]
        D = self.positive(hierarchy.n)
        return MLR(hierarchy, factors, D), dense_mlr(hierarchy, factors, D)

    def general(self, rows, cols, ranks):
        left, right = ([self.normal(h.n, r) for r in ranks] for h in (rows, cols))
        return GeneralMLR(rows, cols, left, right), dense_general(rows, cols, left, right)


def market(dtype=np.float64):
    """Fresh pairs of one dtype."""
    bench, pairs = Bench(dtype), []
    f8 = np.float64

    def put(name, operator, dense):
        pairs.append(Pair(name, operator, np.asarray(dense, f8)))

    # ---- elementary
    put("identity", Identity(5, dtype), np.eye(5))
    d = bench.positive(6)
    put("diagonal", Diagonal(d), np.diag(d))
    s = d * np.array([1, -1, 1, 1, -1, -1], dtype)
    put("diagonal indefinite", Diagonal(s), np.diag(s))
    z = np.array([1, 0, -2, 0], dtype)
    put("diagonal singular", Diagonal(z), np.diag(z))
    put("diagonal n=1", Diagonal(d[:1]), np.diag(d[:1]))
    G, S = bench.regular(6), bench.spd(6)
    put("dense", Dense(G), G)
    put("dense odd swaps", Dense(G[[1, 0, 2, 3, 4, 5]]), G[[1, 0, 2, 3, 4, 5]])
    put("dense symmetric", Dense(S - 2 * np.eye(6, dtype=dtype)), S.astype(f8) - 2 * np.eye(6))
    put("dense positive", Dense(S, positive_definite=True), S)
    put("dense singular", Dense(np.ones((3, 3), dtype)), np.ones((3, 3)))
    R = bench.normal(4, 7)
    put("dense wide", Dense(R), R)
    put("dense tall", Dense(R).T, R.T)
    U, V = bench.normal(6, 2), bench.normal(6, 2)
    put("low rank", LowRank(U, V), U.astype(f8) @ V.T)
    put("low rank symmetric", LowRank(U), U.astype(f8) @ U.T)
    put("low rank wide", LowRank(U[:4], V), U[:4].astype(f8) @ V.T)
    put("low rank transposed", LowRank(U[:4], V).T, V.astype(f8) @ U[:4].T)
    put("low rank k=0", LowRank(U[:, :0], V[:, :0]), np.zeros((6, 6)))
    W = np.hstack([bench.spd(4), bench.normal(4, 1)])
    put("low rank k>n", LowRank(W), W.astype(f8) @ W.T)
    X, Y = bench.regular(4), bench.regular(4)
    put("low rank k=n", LowRank(X, Y), X.astype(f8) @ Y.T)
    p, q = np.array([2, 0, 1, 5, 4, 3]), np.array([1, 0, 3, 2, 5, 4])
    P = dense_permutation(p)
    put("permutation", Permutation(p, dtype), P)
    put("permutation transposed", Permutation(p, dtype).T, P.T)
    put("permutation symmetric", Permutation(q, dtype), dense_permutation(q))
    put("permutation n=1", Permutation([0], dtype), np.eye(1))

    # ---- low rank updates
    F = bench.normal(6, 3)
    lrd, sigma = LowRankPlusDiagonal(F, d), F.astype(f8) @ F.T + np.diag(d)
    put("lrd", lrd, sigma)
    put("lrd k=0", LowRankPlusDiagonal(F[:, :0], d), np.diag(d))
    put("lrd n=1", LowRankPlusDiagonal(F[:1], d[:1]), sigma[:1, :1])
    put("lrd k>n", LowRankPlusDiagonal(F[:2], d[:2]), sigma[:2, :2])
    put("lrd inverse", lrd.inv(), np.linalg.inv(sigma))
    put("lrd inverse k=0", LowRankPlusDiagonal(F[:, :0], d).inv(), np.diag(1 / d.astype(f8)))
    C = bench.normal(2, 2) / 2
    K = ((C + C.T) / 2).astype(dtype)
    U8, V8 = U.astype(f8), V.astype(f8)
    put("woodbury general", Woodbury(G, U, C, V), G + U8 @ C @ V8.T)
    put("woodbury general inverse", Woodbury(G, U, C, V).inv(),
        np.linalg.inv(G + U8 @ C @ V8.T))
    put("woodbury general transposed", Woodbury(G, U, C, V).T, (G + U8 @ C @ V8.T).T)
    put("woodbury positive", Woodbury(lrd, U), sigma + U8 @ U8.T)
    put("woodbury positive inverse", Woodbury(lrd, U).inv(), np.linalg.inv(sigma + U8 @ U8.T))
    E = bench.spd(2)
    put("woodbury positive C", Woodbury(Dense(S, positive_definite=True), U, E), S + U8 @ E @ U8.T)
    put("woodbury indefinite", Woodbury(Diagonal(s), U, K), np.diag(s) + U8 @ K @ U8.T)
    singular_C = np.array([[1, 1], [1, 1]], dtype)
    put("woodbury singular C", Woodbury(Diagonal(d), U, singular_C),
        np.diag(d) + U8 @ singular_C @ U8.T)
    put("woodbury k=0", Woodbury(G, U[:, :0]), G)
    put("woodbury k>n", Woodbury(Dense(X), bench.normal(4, 6), None, np.zeros((4, 6), dtype)), X)
    put("woodbury of permutation", Woodbury(Permutation(p, dtype), U / 4, None, V),
        P + (U8 / 4) @ V8.T)
    put("downdate", Diagonal(4 * d) - LowRank(U / 4), np.diag(4 * d.astype(f8)) - U8 @ U8.T / 16)

    # ---- composed
    L = bench.regular(6)
    put("sum", Sum(lrd, Permutation(p, dtype), L), sigma + P + L)
    put("sum symmetric", Sum(Permutation(q, dtype), Diagonal(s), np.diag(4 * d)),
        dense_permutation(q) + np.diag(s) + np.diag(4 * d))
    S3, V7 = bench.spd(3), bench.normal(7, 2)
    put("sum positive", Sum(Kronecker(Diagonal(d[:2]), S3), Diagonal(d), LowRank(U)),
        np.kron(np.diag(d[:2]), S3) + np.diag(d) + U8 @ U8.T)
    put("sum wide", Sum(R, LowRank(U[:4], V7)), R + U8[:4] @ V7.T)
    put("product", Product(lrd, Permutation(p, dtype), G), sigma @ P @ G)
    put("product of symmetric", Product(Dense(S), Diagonal(s)), S @ np.diag(s))
    put("product palindrome", Product(Diagonal(s), lrd, Diagonal(s)),
        np.diag(s) @ sigma @ np.diag(s))
    put("product square", Product(lrd, lrd), sigma @ sigma)
    put("product wide", Product(R[:, :6], lrd), R[:, :6].astype(f8) @ sigma)
    put("product rectangular inside", Product(R.T, R), R.T.astype(f8) @ R)
    put("scaled", Scaled(lrd, 2.5), 2.5 * sigma)
    put("scaled negative", -lrd, -sigma)
    put("scaled odd negative", Scaled(Dense(X[:3, :3]), -2), -2 * X[:3, :3].astype(f8))
    put("scaled wide", Scaled(LowRank(U[:4], V), -3), -3 * U[:4].astype(f8) @ V8.T)
    put("scaled zero", Scaled(lrd, 0), np.zeros((6, 6)))
    put("transposed", Transposed(Product(G, Diagonal(s))), (G @ np.diag(s)).T)
    put("transposed wide", Transposed(Wrapped(csr_array(R))), R.T)
    put("inverse", Inverse(Dense(G)), np.linalg.inv(G.astype(f8)))
    put("inverse positive", Inverse(Dense(S, positive_definite=True)), np.linalg.inv(S.astype(f8)))
    put("inverse transposed", Inverse(Product(G, Diagonal(s))).T,
        np.linalg.inv((G @ np.diag(s)).astype(f8)).T)
    A2, A3, S2 = bench.regular(2), bench.regular(3), bench.spd(2)
    put("kronecker", Kronecker(A2, A3), np.kron(A2, A3))
    for power, m, B in (("even", 3, A2), ("odd", 2, A3)):
        put(f"kronecker {power} power of a sign", Kronecker(Diagonal(d[:m] * s[:m]), B),
            np.kron(np.diag(d[:m] * s[:m]), B))
    put("kronecker three", Kronecker(A2, Permutation([1, 2, 0], dtype), S2),
        np.kron(A2, np.kron(dense_permutation([1, 2, 0]), S2)))
    put("kronecker positive",
        Kronecker(Identity(3, dtype), LowRankPlusDiagonal(F[:2], d[:2])),
        np.kron(np.eye(3), sigma[:2, :2]))
    put("kronecker wide", Kronecker(R[:2, :3], A2), np.kron(R[:2, :3], A2))
    put("kronecker odd shapes", Kronecker(R[:2, :3], R[:3, :2]), np.kron(R[:2, :3], R[:3, :2]))
    put("blocks", BlockDiagonal(A2, Permutation([1, 0], dtype), A3),
        block_diag(A2, dense_permutation([1, 0]), A3))
    put("blocks positive", BlockDiagonal(lrd, Diagonal(d[:2])), block_diag(sigma, np.diag(d[:2])))
    put("blocks wide", BlockDiagonal(R[:2, :3], A2), block_diag(R[:2, :3], A2))
    put("blocks odd shapes", BlockDiagonal(R[:2, :3], R[:3, :2]),
        block_diag(R[:2, :3], R[:3, :2]))
    put("wrapped sparse", Wrapped(csr_array(G)), G)
    put("wrapped positive", Wrapped(csr_array(S), positive_definite=True), S)
    put("wrapped operator", Wrapped(aslinearoperator(G)), G)
    put("wrapped without adjoint",
        Wrapped(LinearOperator((4, 7), matvec=R.__matmul__, dtype=dtype)), R)

    # ---- compositions of compositions
    put("nested", Kronecker(Scaled(Permutation([1, 0], dtype), -1), Woodbury(A3, U[:3])),
        np.kron(-dense_permutation([1, 0]), A3 + U8[:3] @ U8[:3].T))
    put("nested inverse", BlockDiagonal(Kronecker(A2, lrd.inv()), -Diagonal(s)).inv(),
        block_diag(np.kron(np.linalg.inv(A2.astype(f8)), sigma), np.diag(-1 / s.astype(f8))))
    put("nested transposed", Product(Kronecker(A2, A3), BlockDiagonal(A3, A3)).T,
        (np.kron(A2, A3).astype(f8) @ block_diag(A3, A3)).T)

    # ---- multilevel
    for name, (hierarchy, ranks) in trees().items():
        A, dense = bench.mlr(hierarchy, ranks)
        put(f"mlr {name}", A, dense)
        put(f"mlr inverse {name}", A.inv(), np.linalg.inv(dense))
        put(f"information {name}", A.information(), dense_information(A, dense))
    hierarchy, ranks = trees()["permuted"]
    A, dense = bench.mlr(hierarchy, ranks)
    H = bench.normal(8, 2)
    put("mlr update", Woodbury(A, H), dense + H.astype(f8) @ H.T)
    put("mlr negated", -A, -dense)
    B, other = bench.mlr(hierarchy, ranks)
    put("general difference", A - B, dense - other)
    put("general product", A @ B, dense @ other)
    put("general square", A @ A, dense @ dense)
    put("general from mlr", A.to_general(), dense)
    put("general negated", -A.to_general(), -dense)

    made = Bench(dtype, seed=1)
    for name, (rows, cols, ranks) in tree_pairs().items():
        A, dense = made.general(rows, cols, ranks)
        put(f"general {name}", A, dense)
    for name in ("diagonal level", "unlike leaves", "wide"):
        A, dense = made.general(*tree_pairs()[name])
        put(f"general {name} transposed", A.T, dense.T)
    rows, cols, ranks = tree_pairs()["wide"]
    A, dense = made.general(rows, cols, ranks)
    put("general gram", A @ A.T, dense @ dense.T)
    return pairs
