"""How an array lies in memory changes no bit: at constructors, in products and in solves."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from mlrops import (
    MLR,
    Dense,
    Diagonal,
    GeneralMLR,
    Hierarchy,
    LowRank,
    LowRankPlusDiagonal,
    Permutation,
    Sum,
    Woodbury,
    Wrapped,
)

N = 9
TREE = Hierarchy.balanced(N, [1, 3])
rng = np.random.default_rng(0)
F, G = rng.standard_normal((2, N, 4))
S = rng.standard_normal((N, N)) + 5 * np.eye(N)
D = rng.uniform(1, 2, N)
CONSTRUCTORS = {
    "Diagonal": lambda put: Diagonal(put(D)),
    "Dense": lambda put: Dense(put(S)),
    "positive Dense": lambda put: Dense(put(S @ S.T + S @ S.T), positive_definite=True),
    "LowRank": lambda put: LowRank(put(S), put(S + 1)),
    "Permutation": lambda put: Permutation(put(np.roll(np.arange(N), 3))),
    "LowRankPlusDiagonal": lambda put: LowRankPlusDiagonal(put(F), put(D)),
    "Woodbury": lambda put: Woodbury(put(S), put(F), put(S[:4, :4]), put(G)),
    "MLR": lambda put: MLR(TREE, [put(F[:, :3]), put(F[:, 3:])], put(D)),
    "compact MLR": lambda put: MLR.from_compact(TREE, (3, 1), put(F), put(D)),
    "uncopied MLR": lambda put: MLR.from_compact(TREE, (3, 1), put(F), put(D), copy=False),
    "GeneralMLR": lambda put: GeneralMLR(
        Hierarchy.balanced(N, [1, 9]), Hierarchy.balanced(N, [1, 9]),
        [put(F[:, :3]), put(D[:, None])], [put(G[:, :3]), put(D[:, None])]),
    "compact GeneralMLR": lambda put: GeneralMLR.from_compact(TREE, TREE, (3, 3), put(
        np.hstack([F, G[:, :2]])), put(np.hstack([G, F[:, :2]]))),
    "Wrapped": lambda put: Wrapped(
        csr_array(np.asarray(put(S), put(S).dtype.newbyteorder("="))), symmetric=False),
    "Sum": lambda put: Sum(put(S @ S.T), Diagonal(put(D))),
}


def strided(x):
    wide = np.zeros([2 * size for size in x.shape], x.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def backwards(x):
    return x[::-1].copy()[::-1]


LAYOUTS = {
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": read_only,
    "strided": strided,
    "Fortran": np.asfortranarray,
    "backwards": backwards,
    "nothing masked": lambda x: np.ma.array(x, mask=np.zeros(x.shape, bool)),
    "big-endian, strided, Fortran": lambda x: np.asfortranarray(
        strided(x)).astype(x.dtype.newbyteorder(">")),
}


def results(A, put, dtype):
    """Everything a linear operator computes, from operands in one layout."""
    make = np.random.default_rng(1)
    x, X = make.standard_normal(N).astype(dtype), make.standard_normal((N, 5)).astype(dtype)
    verbs = [A.matvec, A.rmatvec, A.solve] + (
        [A.whiten, A.color, A.inv_quad] if A.positive_definite else [])
    try:
        found = [verb(put(x)) for verb in verbs]
    except np.linalg.LinAlgError:  # a singular one
        found = [verb(put(x)) for verb in verbs[:2]]
    else:
        found += [A.solve(put(X)), A.inv() @ put(X)]
    return [*found, A @ put(X), A.rmatmat(put(X)), put(np.ascontiguousarray(X.T)) @ A,
            A.toarray(), A.diagonal()]


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).dtype.isnative
        assert_array_equal(a, b, strict=True)


@pytest.mark.quick(30)
@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_the_same_bits(name, layout, dtype):
    make, put = CONSTRUCTORS[name], LAYOUTS[layout]

    def plain(x):
        return np.ascontiguousarray(x if x.dtype.kind == "i" else x.astype(dtype))

    def laid(x):
        return put(plain(x))

    A, B = make(plain), make(laid)
    assert A.dtype == B.dtype and repr(A) == repr(B)
    expected = results(A, np.ascontiguousarray, dtype)
    same(results(B, np.ascontiguousarray, dtype), expected)  # at the constructor
    same(results(A, put, dtype), expected)  # at the verbs


@pytest.mark.parametrize("name", [name for name in CONSTRUCTORS if name != "Wrapped"])
def test_masked_cells_are_refused_by_constructors(name):
    def masked(x):
        x = np.ma.array(x)
        x[(1,) * x.ndim if x.shape[-1] > 1 else (1, 0)] = np.ma.masked
        return x

    with pytest.raises((ValueError, TypeError), match="finite|masked"):
        CONSTRUCTORS[name](masked)
    A = LowRankPlusDiagonal(F, D)
    for expression in (lambda: A + masked(S), lambda: A @ masked(S), lambda: masked(S) @ A,
                       lambda: Sum(A, masked(S)), lambda: A - masked(S)):
        with pytest.raises(ValueError, match="finite|masked"):
            expression()
