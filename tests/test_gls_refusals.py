"""Bad input to `gls`: each mistake is named, and says what to do."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from test_gls import MARKET, ROOTLESS, SOLVERS

from mlrops import Identity, LowRank, Wrapped, gls
from mlrops.datasets import simulate_gls


def test_dependent_columns_are_named():
    rng = np.random.default_rng(21)
    X, y = rng.standard_normal((30, 5)), np.arange(30.0)
    X[:, 4] = X[:, 1] - 1e6 * X[:, 2]
    for solver in SOLVERS:
        with pytest.raises(ValueError, match="rank 4 of 5: columns 1, 2, 4 are dependent"):
            gls(X, y, np.ones(30), solver=solver)
        with pytest.raises(ValueError, match="columns of zeros: 1, 3"):
            gls(X * [1, 0, 1, 0, 1], y, np.ones(30), solver=solver)
        with pytest.raises(ValueError, match="columns of zeros: 1"):
            gls(sparse.csr_array(X * [1, 0, 1, 1, 1]), y, np.ones(30), solver=solver)
        dummies = sparse.csr_array(np.column_stack(
            [np.ones(30), rng.standard_normal(30), np.arange(30) % 2, 1 - np.arange(30) % 2]))
        for A in (dummies, aslinearoperator(dummies)):
            with pytest.raises(ValueError, match="rank 3 of 4 .* columns 0, 2, 3 are dependent"):
                _ = gls(A, y, np.ones(30), solver=solver).bse


@pytest.mark.slow
def test_dependent_columns_where_the_covariance_solves_by_iteration():
    # What should be zero comes out as rounding, of either sign.
    rng = np.random.default_rng(23)
    for name in ROOTLESS * 10:
        column = rng.standard_normal(30)
        X = sparse.csr_array(np.column_stack([column, np.ones(30), 1 - column]))
        with pytest.raises(ValueError, match="rank 2 of 3 .* columns 0, 1, 2 are dependent"):
            _ = gls(X, np.arange(30.0), MARKET[name]).bse


def test_products_that_are_not_finite():
    X = LinearOperator((6, 2), matvec=lambda v: np.full(6, np.nan),
                       rmatvec=lambda u: np.full(2, np.nan), dtype=float)
    with pytest.raises(ValueError, match="the products of X.*give NaN or infinity"):
        gls(X, np.arange(6.0), np.ones(6))


def test_a_covariance_falsely_declared_positive_definite():
    S = sparse.diags_array(np.r_[np.ones(29), -1e-3])
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite: .* = -|residual"):
        gls(np.ones(30), np.arange(30.0), Wrapped(S, positive_definite=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_units_beyond_the_squares_of_floats(solver):
    data = simulate_gls(3, MARKET["MLR"], random_state=12)
    base = gls(data.X, data.y, MARKET["MLR"])
    for factor in (1e200, 1e-200):
        for kind in (np.asarray, sparse.csr_array):
            other = gls(kind(data.X * factor), data.y, MARKET["MLR"], solver=solver)
            np.testing.assert_allclose(other.params * factor, base.params, rtol=1e-8)
            np.testing.assert_allclose(other.bse * factor, base.bse, rtol=1e-8)
    with pytest.raises(ValueError, match="underflow"):
        gls(data.X, 1e-200 * data.y, MARKET["MLR"], solver=solver)


def test_dependent_columns_are_named_by_name():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame({"one": 1.0, "up": np.arange(9.0), "down": 5 - np.arange(9.0),
                      "other": np.arange(9.0) ** 2})
    with pytest.raises(ValueError, match="columns 'one', 'up', 'down' are dependent; leave out 1"):
        gls(X, np.ones(9), np.ones(9))
    X.loc[3, "other"] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 column \('other'\)"):
        gls(X, np.ones(9), np.ones(9))


GOOD = {"X": np.column_stack([np.ones(6), np.arange(6.0)]), "y": np.arange(6.0),
        "covariance": np.ones(6)}


@pytest.mark.parametrize("change, error, message", [
    ({"X": np.eye(6)}, ValueError, "more observations .* got 6 rows and 6 columns"),
    ({"X": np.ones((6, 0))}, ValueError, "at least one column"),
    ({"X": np.ones((6, 2, 2))}, ValueError, "X must be 1-d or 2-d"),
    ({"X": np.ones((5, 1))}, ValueError, r"y must have shape \(5,\)"),
    ({"X": [["a"]] * 6}, TypeError, "X must be numeric"),
    ({"X": np.ones((6, 1)) * 1j}, TypeError, "X must be real"),
    ({"X": np.full((6, 1), np.nan)}, ValueError, r"NaN or infinity in 1 column \(0\)"),
    ({"X": sparse.csr_array([[0, np.inf]] * 6)}, ValueError, r"in 1 column \(1\)"),
    ({"y": np.ones((6, 1))}, ValueError, r"y must have shape \(6,\)"),
    ({"y": [0, 1, np.nan, 3, 4, 5]}, ValueError, r"y must be finite.*observation 2"),
    ({"covariance": np.ones(5)}, ValueError, r"covariance must have shape \(6, 6\)"),
    ({"covariance": Identity(7)}, ValueError, r"covariance must have shape \(6, 6\)"),
    ({"covariance": np.r_[1.0, 1, 0, 1, -1, 1]}, ValueError, "0 at observation 2 .*: 2, 4"),
    ({"covariance": np.r_[1.0, 1, np.nan, 1, 1, 1]}, ValueError, "observation 2"),
    ({"covariance": np.triu(np.ones((6, 6)))}, ValueError, "declared symmetric"),
    ({"covariance": np.ones((6, 6))}, np.linalg.LinAlgError, "not positive definite"),
    ({"covariance": -Identity(6)}, ValueError, "known to be symmetric positive definite"),
    ({"covariance": LowRank(np.ones((6, 1)))}, ValueError, "known to be symmetric positive"),
    ({"covariance": sparse.eye_array(6)}, ValueError, "Wrapped"),
    ({"covariance": None}, TypeError, "NoneType"),
    ({"solver": "lu"}, ValueError, "solver must be one of 'cg', 'lsmr', 'qr', got 'lu'"),
    ({"scale": 2.0}, ValueError, "scale must be 'estimated' or 'known'"),
    ({"rtol": 0.0}, ValueError, "rtol must lie between 0 and 1"),
    ({"maxiter": -1}, ValueError, "maxiter must be non-negative"),
    ({"x0": [1.0]}, ValueError, r"x0 must have shape \(2,\)"),
    ({"x0": [1.0, np.nan]}, ValueError, "x0 must be finite"),
])
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        gls(**{**GOOD, **change})


@pytest.mark.parametrize("solver", ["lsmr", "qr"])
@pytest.mark.parametrize("name", ROOTLESS)
def test_a_covariance_without_a_root_names_the_way_out(solver, name):
    with pytest.raises(ValueError, match="no structured square root.*solver='cg'"):
        gls(np.ones(30), np.arange(30.0), MARKET[name], solver=solver)


def test_intervals_need_a_level():
    fit = gls(**GOOD)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 5"):
        fit.conf_int(alpha=5)
