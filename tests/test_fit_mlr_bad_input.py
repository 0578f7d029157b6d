"""What `fit_mlr` and `allocate_ranks` say to every kind of bad input, and what they take."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlrops import Dense, GeneralMLR, Hierarchy
from mlrops.fitting import allocate_ranks, fit_mlr, partition

n = 24
TREE = Hierarchy.balanced(n, [1, 2, 4])
RNG = np.random.default_rng(0)
A = RNG.standard_normal((n, n))
S = A + A.T


@pytest.fixture(autouse=True)
def silent():
    """Warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def fit(A, rows=TREE, cols=None, **options):
    return fit_mlr(A, (1,) * rows.n_levels, rows, cols, max_iter=3, random_state=0, **options)


def allocate(A, rows=TREE, cols=None, **options):
    return allocate_ranks(A, 3, rows, cols, max_iter=2, random_state=0, **options)


BOTH = pytest.mark.parametrize("fit", [fit, allocate])


class Products(LinearOperator):
    """Products with a matrix; `norm` is what its method of that name says, if it has one."""

    def __init__(self, A, norm=None, adjoint=True):
        super().__init__(A.dtype, A.shape)
        self.A, self.has_adjoint = A, adjoint
        if norm is not None:
            self.norm = lambda: norm

    def _matmat(self, X):
        with np.errstate(invalid="ignore"):
            return self.A @ X

    def _rmatmat(self, X):
        if not self.has_adjoint:
            raise NotImplementedError
        with np.errstate(invalid="ignore"):
            return self.A.T @ X


def changed(value, *at):
    x = A.copy()
    for i, j in at:
        x[i, j] = value
    return x


# ---------------------------------------------------------------- entries


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_entries_that_are_no_numbers(fit, value):
    bad = changed(value, (3, 7), (5, 7), (5, 8))
    with pytest.raises(ValueError, match=r"A must be finite, .* 3 of 576 entries \(row 3, 5\)"):
        fit(bad)
    for kind in (sparse.csr_array, sparse.csc_array, sparse.coo_array, sparse.lil_array):
        with pytest.raises(ValueError, match=r"in 3 of its stored entries \(row 3, 5\)"):
            fit(kind(bad))
    for operator in (Products(bad), Products(bad, norm=5.0), aslinearoperator(bad)):
        with np.errstate(invalid="ignore"), pytest.raises(
                ValueError, match=r"A must be finite, got products .* \(row 3, 5\)"):
            fit(operator)


@BOTH
def test_operators_that_fail(fit):
    with pytest.raises(ValueError, match="a norm that is NaN"):
        fit_mlr(Products(A, norm=np.nan), (1, 1, 1), TREE)
    with pytest.raises(TypeError, match="no _rmatvec or _rmatmat; for a symmetric one"):
        fit_mlr(Products(A, adjoint=False), (1, 1, 1), TREE)
    assert fit(Products(S, adjoint=False), symmetric=True).operator.symmetric

    class Narrow(Products):
        def _matmat(self, X):
            return self.A @ X[:, :1]

    with pytest.raises(ValueError, match=r"of vectors \(24, 24\) must have shape \(24, 24\), got"):
        fit(Narrow(A))

    class Gone(Products):
        def _matmat(self, X):
            raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        fit(Gone(A))


@BOTH
def test_nothing_to_fit(fit):
    for zero in (0 * A, sparse.csr_array((n, n)), sparse.csr_array(A) * 0, Products(0 * A)):
        with pytest.raises(ValueError, match="A is all zero: there is nothing to fit"):
            fit(zero)


@BOTH
@pytest.mark.parametrize("scale, dtype", [
    (1e200, float), (1e-200, float), (1e-320, float), (1e30, np.float32), (1e-30, np.float32)])
def test_scales_out_of_range(fit, scale, dtype):
    for kind in (np.asarray, sparse.csr_array):
        with pytest.raises(ValueError, match=f"norm between .* range of {np.dtype(dtype)}, got"):
            fit(kind((A * scale).astype(dtype)))


@BOTH
@pytest.mark.parametrize("scale, dtype", [(1e100, float), (1e-100, float), (1e13, np.float32),
                                          (1e-13, np.float32)])
def test_scales_within_range(fit, scale, dtype):
    found, expected = fit((A * scale).astype(dtype)), fit(A.astype(dtype))
    assert found.error == pytest.approx(expected.error, rel=1e-3 if dtype is np.float32 else 1e-9)


# ---------------------------------------------------------------- containers and dtypes


@BOTH
@pytest.mark.parametrize("bad, error, message", [
    (A + 1j, TypeError, "must be real, got complex"),
    (sparse.csr_array(A + 1j), TypeError, "must be real, got complex"),
    (aslinearoperator(A + 1j), TypeError, "must be real, got complex"),
    (A.astype(str).astype(object), TypeError, "must be numeric, got .* of type str at entry 0, 0"),
    (A.astype(str), TypeError, "must be numeric, got dtype <U"),
    (np.zeros((n, n), "M8[D]"), TypeError, "must be numeric, got dtype datetime64"),
    ("A.npy", TypeError, "must be numeric"),
    (None, TypeError, "must be numeric"),
    (3.0, ValueError, r"must be 2-d, got shape \(\)"),
    (A[0], ValueError, r"must be 2-d, got shape \(24,\)"),
    (A[None], ValueError, r"must be 2-d, got shape \(1, 24, 24\)"),
    (sparse.coo_array(A[0]), ValueError, r"got shape \((1, 24|24,)\)"),
    (A[:0], ValueError, r"a row for each of the 24 features of rows .* got shape \(0, 24\)"),
    (A[:, :0], ValueError, "A has 0 columns for 24 rows"),
    (A[:20], ValueError, r"a row for each of the 24 .* got shape \(20, 24\)"),
    (A[:, :20], ValueError, "A has 20 columns for 24 rows: pass a hierarchy of its columns"),
    (np.ma.array(A, mask=A > 2), ValueError, r"got 9 masked ones of 576 \(row 3, 8, 9, 10, 11 and"),
], ids=lambda x: "" if isinstance(x, str) else None)
def test_what_is_no_matrix(fit, bad, error, message):
    with pytest.raises(error, match=message):
        fit(bad)


@BOTH
@pytest.mark.parametrize("same", [
    A.tolist(), np.asfortranarray(A), np.repeat(A, 2, axis=1)[:, ::2], A.astype(">f8"),
    np.ma.array(A), A.astype(np.longdouble)], ids=lambda x: type(x).__name__)
def test_the_same_matrix_in_another_form(fit, same):
    found, expected = fit(same), fit(A)
    np.testing.assert_array_equal(found.operator.B, expected.operator.B)
    np.testing.assert_array_equal(found.objective_trace, expected.objective_trace)


@BOTH
def test_read_only_arrays(fit):
    frozen = A.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(fit(frozen).operator.C, fit(A).operator.C)


@BOTH
@pytest.mark.parametrize("dtype, expected", [
    ("f2", "f4"), ("f4", "f4"), ("i1", "f8"), ("i8", "f8"), ("u2", "f8"), ("?", "f8")])
def test_dtypes(fit, dtype, expected):
    numbers = A > 0 if dtype == "?" else np.abs(4 * A).astype(dtype)
    kinds = (np.asarray, sparse.csr_array) if dtype != "f2" else (np.asarray,)
    for kind in kinds:
        found = fit(kind(numbers))
        assert found.operator.dtype == expected
        gap = np.linalg.norm(numbers.astype(float) - found.operator.toarray())
        assert gap / np.linalg.norm(numbers.astype(float)) == pytest.approx(found.error, rel=1e-3)


@BOTH
def test_frames(fit):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(A, index=[f"r{i}" for i in range(n)], columns=[f"c{i}" for i in range(n)])
    for same in (frame, frame.astype("Float64")):
        np.testing.assert_array_equal(fit(same).operator.B, fit(A).operator.B)
    gaps = frame.copy()
    gaps.iloc[4, 2] = np.nan
    for gap in (gaps, gaps.astype("Float64")):
        with pytest.raises(ValueError, match=r"A must be finite, .* \(row r4\)"):
            fit(gap)
    with pytest.raises(TypeError, match=r"A must be numeric, .* in 1 column \(name\)"):
        fit(frame.assign(name="x"))


@BOTH
def test_smallest_matrices(fit):
    one, row = Hierarchy.flat(1), Hierarchy.flat(n)
    for x in (2.0, -2.0):
        found = fit(np.array([[x]]), one)
        assert found.termination == "exact" and found.operator.toarray()[0, 0] == pytest.approx(x)
    assert fit(np.array([[-2.0]]), one, psd=True).operator.toarray()[0, 0] == 0
    found = fit(A[:1], one, row)
    np.testing.assert_allclose(found.operator.toarray(), A[:1], atol=1e-14)


# ---------------------------------------------------------------- trees


@BOTH
@pytest.mark.parametrize("cols, message", [
    (Hierarchy.balanced(n, [1, 2]), "equally many levels, got 3 and 2"),
    (Hierarchy.balanced(n, [1, 3, 6]),
     "level 1 has 2 and 3; group 0 of level 0 has 2 children at level 1 in rows, 3 in cols"),
    (Hierarchy.from_boundaries([[0, n], [0, 12, n], [0, 6, 12, 15, 18, n]]),
     "level 2 has 4 and 5; group 1 of level 1 has 2 children at level 2 in rows, 3 in cols"),
    (Hierarchy.from_boundaries([[0, n], [0, 5, n], [0, 5, 7, 9, n]]),
     "one shape: group 0 of level 1 has 2 children at level 2 in rows, 1 in cols"),
    (Hierarchy.balanced(28, [1, 2, 4]), "for each of the 28 of cols"),
], ids=["levels", "level 1", "level 2", "children", "size"])
def test_trees_of_unlike_shape(fit, cols, message):
    with pytest.raises(ValueError, match=message):
        fit(A, TREE, cols)


@BOTH
def test_trees_that_are_none(fit):
    for rows in (3, "rows", Hierarchy.flat):
        with pytest.raises(TypeError, match="rows must be a Hierarchy or labels of the rows, got"):
            fit_mlr(A, (1, 1, 1), rows)
    with pytest.raises(ValueError, match="rows: level 1 has 2 labels for 24 rows"):
        fit_mlr(A, (1, 1, 1), [0, 1])
    with pytest.raises(TypeError, match="rows must be a Hierarchy, got NoneType"):
        allocate_ranks(A, 3, None)
    with pytest.raises(ValueError, match="30 features of rows"):
        fit(A, Hierarchy.balanced(30, [1, 2, 4]))
    with pytest.raises(ValueError, match="deeper than the data allow: no group of level 5"):
        partition(A, 9)


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize("ranks, error, message", [
    ((1, 1), ValueError, "3 entries, one a level, got 2"),
    (2, ValueError, "3 entries, one a level, got 1"),
    ((1, -1, 1), ValueError, "rank of level 1 must be non-negative, got -1"),
    ((1, 1.5, 1), TypeError, "rank of level 1 must be an integer, got 1.5"),
    ((1, 1, np.nan), TypeError, "rank of level 2 must be an integer, got nan"),
    ((True, 1, 1), TypeError, "rank of level 0 must be an integer, got True"),
])
def test_bad_ranks(ranks, error, message):
    with pytest.raises(error, match=message):
        fit_mlr(A, ranks, TREE)


@pytest.mark.parametrize("total, error, message", [
    (0, ValueError, "total_rank must be at least 1, got 0"),
    (-3, ValueError, "total_rank must be at least 1, got -3"),
    (2.5, TypeError, "total_rank must be an integer, got 2.5"),
    (None, TypeError, "total_rank must be an integer, got None"),
])
def test_bad_total_ranks(total, error, message):
    with pytest.raises(error, match=message):
        allocate_ranks(A, total, TREE)


@pytest.mark.parametrize("start, error, message", [
    ("middle", ValueError, "'top' or one rank a level, got 'middle'"),
    (None, ValueError, "'top' or one rank a level, got None"),
    (3, ValueError, "'top' or one rank a level, got 3"),
    ((1, 2), ValueError, "3 entries, one a level"),
    ((4, -1, 0), ValueError, "rank of level 1 must be non-negative"),
    ((1, 1, 0), ValueError, r"add up to total_rank = 3, got \(1, 1, 0\) with the sum 2"),
])
def test_bad_starts(start, error, message):
    with pytest.raises(error, match=message):
        allocate_ranks(A, 3, TREE, start=start)


def test_ranks_beyond_the_blocks_are_capped_and_reported():
    tree = Hierarchy.from_boundaries([[0, n], [0, 5, n], [0, 2, 5, 14, n]])
    found = fit_mlr(A, (1, 6, 3), tree, random_state=0, max_iter=2)
    assert found.capped == ((1, 0, 5), (2, 0, 2))
    assert "level 1 group 0, level 2 group 0" in found.summary()
    assert "2 groups capped" in repr(found)
    inside = found.operator.left[2][:2] @ found.operator.right[2][:2].T
    assert np.linalg.matrix_rank(inside) <= 2 and not found.operator.left[2][:2, 2:].any()
    shared = allocate_ranks(A, 13, tree, start="bottom", max_iter=0, random_state=0)
    assert shared.capped == ((2, 0, 2), (2, 1, 3), (2, 2, 9), (2, 3, 10))
    full = allocate_ranks(A, 120, tree, random_state=0)
    assert full.termination == "exact" and 1e-17 < full.error < 1e-14  # what the factors give


# ---------------------------------------------------------------- symmetric and psd


@BOTH
@pytest.mark.parametrize("option", ["symmetric", "psd"])
def test_matrices_that_are_not_symmetric(fit, option):
    bad = S.copy()
    bad[3, 7] += 2.5
    for kind in (np.asarray, sparse.csr_array):
        with pytest.raises(ValueError, match=rf"{option}=True needs a symmetric A: A\[(3, 7|7, 3)\]"
                                             r" and A\[(3, 7|7, 3)\] differ by 2.5"):
            fit(kind(bad), **{option: True})
    for operator in (aslinearoperator(bad), Dense(bad)):
        with pytest.raises(ValueError, match=f"{option}=True needs .* for random v and w"):
            fit(operator, **{option: True})


@BOTH
def test_psd_fits_of_matrices_that_are_not(fit):
    """The best semidefinite fit: zeros where a block has no positive eigenvalue."""
    flat = Hierarchy.flat(n)
    lam, V = np.linalg.eigh(S)
    found = fit_mlr(S, (5,), flat, psd=True, random_state=0)
    best = (V[:, -5:] * lam[-5:]) @ V[:, -5:].T
    np.testing.assert_allclose(found.operator.toarray(), best, atol=1e-6)
    none = fit(-S @ S, psd=True)
    assert not none.operator.toarray().any() and none.error == 1 and none.converged


# ---------------------------------------------------------------- the rest


@pytest.mark.parametrize("init, error, message", [
    ("svd", TypeError, "GeneralMLR or a pair of factors .* got str"),
    (A, TypeError, "got ndarray"),
    (Dense(A), TypeError, "got Dense"),
    ((A, A), TypeError, "left must be a sequence of 3 arrays"),
    (([A[:, :1]] * 2, [A[:, :1]] * 2), ValueError, r"left must hold one array a level \(3\)"),
    (([A[:5, :1]] * 3, [A[:, :1]] * 3), ValueError, "left factors of level 0 must have 24 rows"),
    (([A[:, :1] * np.nan] * 3, [A[:, :1]] * 3), ValueError, "left factors of level 0 must be fin"),
    (([A[:, :2]] * 3, [A[:, :2]] * 3), ValueError, r"ranks of the fit, \(1, 1, 1\), got \(2, 2"),
    (GeneralMLR(Hierarchy.flat(n), Hierarchy.flat(n), [A[:, :1]], [A[:, :1]]), ValueError,
     "must live on the hierarchies of the fit"),
], ids=lambda x: "" if isinstance(x, str) else None)
def test_bad_inits(init, error, message):
    with pytest.raises(error, match=message):
        fit(A, init=init)


@BOTH
@pytest.mark.parametrize("tol", [None, "x", -1, np.nan, 1])
def test_bad_tolerances(fit, tol):
    refused = r"tol must (lie in \[0, 1\)|be a number), got"
    with pytest.raises((TypeError, ValueError), match=refused):
        fit(A, tol=tol)


@BOTH
def test_bars_go_where_those_of_other_fits_go(fit, capfd):
    fit(A, progress=True)
    fit(A)
    out, err = capfd.readouterr()
    assert out == "" and err.count("error=") >= 1
