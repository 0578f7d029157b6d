"""Generalized least squares: dense formulas, statsmodels, hard designs, and honest ends."""

import math
import pickle
import warnings

import numpy as np
import pytest
from scipy import sparse, stats
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from trees import close, permuted_case

from mlrops import (
    MLR,
    BlockDiagonal,
    ConvergenceWarning,
    Dense,
    Diagonal,
    Identity,
    Kronecker,
    LowRankPlusDiagonal,
    Permutation,
    Product,
    Scaled,
    Sum,
    Woodbury,
    Wrapped,
    gls,
)
from mlrops.datasets import simulate_gls

SOLVERS = ("cg", "lsmr", "qr")


def positive(n, seed, dtype=np.float64):
    """A dense positive definite operator."""
    A = np.random.default_rng(seed).standard_normal((n, n))
    return Dense((A @ A.T + n * np.eye(n)).astype(dtype), positive_definite=True)


def low_rank(n, k, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return LowRankPlusDiagonal(rng.standard_normal((n, k)).astype(dtype),
                               rng.uniform(0.5, 2, n).astype(dtype))


def market(dtype=np.float64):
    """Covariances of 30 observations, of every kind there is."""
    rng = np.random.default_rng(0)
    P = Permutation(rng.permutation(30), dtype=dtype)
    A = permuted_case().A
    A = MLR(A.hierarchy, [F.astype(dtype) for F in A.factors], A.D.astype(dtype))
    regions, persons = positive(5, 4, dtype), low_rank(6, 1, 5, dtype)
    yield "identity", Identity(30, dtype)
    yield "diagonal", Diagonal(rng.uniform(0.1, 10, 30).astype(dtype))
    yield "dense", positive(30, 1, dtype)
    yield "low rank plus diagonal", low_rank(30, 3, 2, dtype)
    yield "woodbury", Woodbury(positive(30, 3, dtype), rng.standard_normal((30, 2)).astype(dtype))
    yield "MLR", A
    yield "MLR inverse", A.inv()
    yield "kronecker", Kronecker(regions, persons)
    yield "block diagonal", BlockDiagonal(
        positive(7, 6, dtype), low_rank(20, 2, 7, dtype), Identity(3, dtype))
    yield "product", Product(P, low_rank(30, 2, 8, dtype), P.T)
    yield "scaled", Scaled(Kronecker(regions, persons), 3.0)
    yield "sum", Sum(Kronecker(regions, persons), A)
    yield "wrapped", Wrapped(
        sparse.csr_array(positive(30, 9, dtype).toarray()), positive_definite=True)


MARKET, SINGLE = dict(market()), dict(market(np.float32))
ROOTLESS = ("sum", "wrapped")
PAIRS = [(name, solver) for name in MARKET for solver in SOLVERS
         if solver == "cg" or name not in ROOTLESS]


def dense_gls(X, y, S):
    """β, (XᵀΣ⁻¹X)⁻¹ and rᵀΣ⁻¹r by the formulas."""
    X, y, S = (np.asarray(a, float) for a in (X, y, S))
    inverse = np.linalg.inv(S)
    C = np.linalg.inv(X.T @ inverse @ X)
    beta = C @ (X.T @ inverse @ y)
    r = y - X @ beta
    return beta, C, r @ inverse @ r


@pytest.mark.quick(24)
@pytest.mark.parametrize("name, solver", PAIRS)
@pytest.mark.parametrize("scale", ["estimated", "known"])
def test_every_covariance_by_the_dense_formulas(name, solver, scale):
    covariance = MARKET[name]
    data = simulate_gls(4, covariance, random_state=1) if name not in ROOTLESS else (
        simulate_gls(4, Identity(30), random_state=1))
    S = covariance.toarray()
    beta, C, ssr = dense_gls(data.X, data.y, S)
    fit = gls(data.X, data.y, covariance, solver=solver, scale=scale)
    sigma2 = 1.0 if scale == "known" else ssr / 26
    assert fit.converged and fit.solver == solver and fit.residual <= 1e-10
    tol = 1e-8 if name in ROOTLESS else 1e-10
    close(fit.params, beta, tol)
    close(fit.fittedvalues, data.X @ beta, tol)
    close(fit.resid, data.y - data.X @ beta, tol)
    close(fit.cov_params(), sigma2 * C, tol)
    close(fit.bse, np.sqrt(sigma2 * np.diag(C)), tol)
    t = beta / np.sqrt(sigma2 * np.diag(C))
    close(fit.tvalues, t, tol)
    reference = stats.norm() if scale == "known" else stats.t(26)
    np.testing.assert_allclose(fit.pvalues, 2 * reference.sf(np.abs(t)), rtol=1e-6)
    half = reference.ppf(0.95) * np.sqrt(sigma2 * np.diag(C))
    close(fit.conf_int(0.1), np.column_stack([beta - half, beta + half]), tol)
    assert (fit.nobs, fit.df_resid) == (30, 26)
    assert fit.scale == pytest.approx(sigma2, rel=1e-7)
    if name not in ROOTLESS:
        known = S if scale == "known" else S * ssr / 30
        expected = stats.multivariate_normal(np.zeros(30), known).logpdf(data.y - data.X @ beta)
        assert fit.loglik == pytest.approx(expected, rel=1e-9)


@pytest.mark.quick(40)
@pytest.mark.parametrize("name, solver", PAIRS)
@pytest.mark.parametrize("constant", ["column", "implied", "none"])
def test_statsmodels_by_value(name, solver, constant):
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    X = rng.standard_normal((30, 4))
    if constant == "column":
        X[:, 1] = 2.0
    elif constant == "implied":
        X[:, 0] = 1 - X[:, 1] - X[:, 3]
    y = X @ [1.0, -2, 0.5, 3] + 5 * rng.standard_normal(30) + 4
    theirs = api.GLS(y, X, sigma=MARKET[name].toarray()).fit()
    ours = gls(X, y, MARKET[name], solver=solver)
    for ask in ("params", "bse", "tvalues", "rsquared", "scale"):
        np.testing.assert_allclose(getattr(ours, ask), getattr(theirs, ask), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.pvalues, theirs.pvalues, rtol=1e-6)
    np.testing.assert_allclose(ours.conf_int(), theirs.conf_int(), rtol=1e-7)
    np.testing.assert_allclose(ours.cov_params(), theirs.cov_params(), rtol=1e-7, atol=1e-9)
    if name not in ROOTLESS:
        for name in ("llf", "aic", "bic", "rsquared_adj"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-8), name


@pytest.mark.quick(4)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.coo_matrix, aslinearoperator, Wrapped])
def test_sparse_and_operator_designs(solver, kind):
    rng = np.random.default_rng(4)
    X = rng.standard_normal((200, 70)) * (rng.random((200, 70)) < 0.2)  # more than a block
    X[:, 5] *= 30
    covariance = low_rank(200, 3, 5)
    y = X @ rng.standard_normal(70) + covariance.sample(random_state=6)
    beta, C, ssr = dense_gls(X, y, covariance.toarray())
    A = sparse.csr_array(X) if kind is Wrapped else X
    fit = gls(kind(A), y, covariance, solver=solver)
    assert fit.converged
    close(fit.params, beta, 1e-7)
    close(fit.cov_params(), ssr / 130 * C, 1e-9)
    ours = gls(X, y, covariance, solver=solver)
    assert fit.rsquared == pytest.approx(ours.rsquared, rel=1e-9)
    with_constant = sparse.hstack([sparse.csr_array(X), np.ones((200, 1))])
    assert gls(with_constant, y, covariance, solver=solver).rsquared == pytest.approx(
        gls(np.column_stack([X, np.ones(200)]), y, covariance, solver=solver).rsquared, rel=1e-9)


class Spy(LinearOperator):
    """Refuses blocks: nobody may form the matrix."""

    def __init__(self, A):
        super().__init__(np.float64, A.shape)
        self.A, self.products = A, 0

    def _matvec(self, x):
        self.products += 1
        return self.A @ x

    def _rmatvec(self, x):
        return self.A.T @ x

    def _matmat(self, X):
        raise AssertionError("the design was formed")


@pytest.mark.parametrize("solver", ["cg", "lsmr"])
def test_coefficients_need_products_alone(solver):
    rng = np.random.default_rng(7)
    X = Spy(rng.standard_normal((300, 40)))
    covariance = low_rank(300, 2, 8)
    y = rng.standard_normal(300)
    fit = gls(X, y, covariance, solver=solver)
    close(fit.params, dense_gls(X.A, y, covariance.toarray())[0], 1e-8)
    assert fit.n_cg <= 40 and X.products <= fit.n_cg + 20


@pytest.mark.parametrize("name, solver", PAIRS)
def test_single_precision(name, solver):
    data = simulate_gls(3, MARKET["MLR"], random_state=9)
    X, y = data.X.astype(np.float32), data.y.astype(np.float32)
    covariance = SINGLE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = gls(X, y, covariance, solver=solver)
    beta, C, ssr = dense_gls(X, y, covariance.toarray())
    assert covariance.dtype == fit.params.dtype == fit.resid.dtype == np.float32
    assert fit.converged
    close(fit.params, beta, 1e-4)
    close(fit.bse, np.sqrt(ssr / 27 * np.diag(C)), 1e-4)


def test_many_observations_in_single_precision():
    rng = np.random.default_rng(22)
    X = rng.standard_normal((200_000, 3)).astype(np.float32)
    X[:, 2] = X[:, 1] + 0.01 * X[:, 2]  # condition 200
    y = X.sum(axis=1) + rng.standard_normal(200_000).astype(np.float32)
    covariance = Identity(200_000, np.float32)
    expected = gls(X.astype(float), y, covariance, rtol=1e-10)
    for solver in SOLVERS:
        fit = gls(X, y, covariance, solver=solver)
        assert np.abs((fit.params - expected.params) / expected.bse).max() < 0.01
        np.testing.assert_allclose(fit.bse, expected.bse, rtol=1e-3)
    X[:, 2] = X[:, 1] + 2 * X[:, 0]
    with pytest.raises(ValueError, match="rank 2 of 3: columns 0, 1, 2 are dependent"):
        gls(X, y, covariance)


def hard_design(kind, noise=1e-6, log_condition=7):
    """A design of a given condition, and data of which all ones are the coefficients."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 6)))[0] for n in (400, 6))
    X = U * np.logspace(0, -log_condition, 6) @ V
    covariance = low_rank(400, 3, 1)
    Q = np.linalg.qr(covariance.whiten(X))[0]
    z = rng.standard_normal(400)
    for _ in range(2):  # once leaves what cancellation hides
        z -= Q @ (Q.T @ z)
    y = X.sum(axis=1)
    y += noise * np.linalg.norm(y) / np.linalg.norm(z) * covariance.color(z)
    return kind(X), y, covariance


def distance(fit):
    return np.abs(fit.params - 1).max()


@pytest.mark.parametrize("kind", [sparse.csr_array, aslinearoperator])
def test_lsmr_keeps_the_digits_that_the_squared_operator_loses(kind):
    X, y, covariance = hard_design(kind)
    by_cg, by_lsmr, by_qr = (
        gls(X, y, covariance, solver=s, rtol=1e-13) for s in SOLVERS)
    assert distance(by_cg) > 1e-4
    assert distance(by_lsmr) < 1e-7
    assert distance(by_qr) < 1e-7
    close(by_lsmr.bse, by_qr.bse, 1e-6)
    with pytest.raises(ValueError, match=r"rank 5 of 6 to working precision.*solver='lsmr'"):
        _ = by_cg.bse


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_dense_design_is_not_squared_by_any_solver(solver):
    X, y, covariance = hard_design(np.asarray)
    fit = gls(X, y, covariance, solver=solver)
    assert fit.converged and fit.n_cg <= 10 and distance(fit) < 1e-7
    reference = gls(X, y, covariance, solver="qr")
    np.testing.assert_allclose(fit.bse, reference.bse, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_variances_over_ten_orders_of_magnitude(solver):
    rng = np.random.default_rng(11)
    variances = np.logspace(-5, 5, 60)
    X, beta = rng.standard_normal((60, 4)), np.array([1.0, 2, 3, 4])
    y = X @ beta + np.sqrt(variances) * rng.standard_normal(60)
    fit = gls(X, y, variances, solver=solver)
    W = 1 / np.sqrt(variances)
    expected, *_ = np.linalg.lstsq(W[:, None] * X, W * y, rcond=None)
    assert fit.converged
    close(fit.params, expected, 1e-9)
    close(fit.bse, np.sqrt(fit.scale * np.diag(np.linalg.inv(X.T / variances @ X))), 1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_units_of_data_and_regressors(solver, factor):
    data = simulate_gls(3, MARKET["MLR"], random_state=12)
    base = gls(data.X, data.y, MARKET["MLR"], solver=solver)
    scaled = gls(data.X, factor * data.y, MARKET["MLR"], solver=solver)
    close(scaled.params / factor, base.params, 1e-9)
    close(scaled.bse / factor, base.bse, 1e-9)
    units = np.array([1.0, factor, 1 / factor])
    for kind in (np.asarray, sparse.csr_array):
        other = gls(kind(data.X * units), data.y, MARKET["MLR"], solver=solver)
        np.testing.assert_allclose(other.params * units, base.params, rtol=1e-8)
        np.testing.assert_allclose(other.pvalues, base.pvalues, rtol=1e-7)
    other = gls(data.X, data.y, factor * MARKET["MLR"], solver=solver)
    close(other.params, base.params, 1e-9)
    close(other.bse, base.bse, 1e-9)
    assert other.scale * factor == pytest.approx(base.scale, rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_smallest_problems(solver):
    X = np.array([[1.0, 0], [1, 1], [1, 3]])
    y = np.array([1.0, 2, 2])
    fit = gls(X, y, [1.0, 2, 3], solver=solver)  # N = p + 1
    beta, C, ssr = dense_gls(X, y, np.diag([1.0, 2, 3]))
    close(fit.params, beta, 1e-12)
    close(fit.pvalues, 2 * stats.t(1).sf(np.abs(beta) / np.sqrt(ssr * np.diag(C))), 1e-10)
    for column in (X[:, 1], X[:, 1:]):
        one = gls(column, y, np.eye(3), solver=solver)
        close(one.params, [8 / 10], 1e-12)
        close(one.bse, [math.sqrt((9 - 6.4) / 2 / 10)], 1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_and_everything_explained(solver):
    X = np.random.default_rng(13).standard_normal((20, 3))
    zero = gls(X, np.zeros(20), np.ones(20), solver=solver, x0=[1.0, 2, 3])
    assert zero.converged and not zero.params.any() and zero.n_cg == 0
    exact = gls(X, X @ [1.0, 2, 3], low_rank(20, 2, 1), solver=solver)
    assert exact.converged
    close(exact.params, [1, 2, 3], 1e-9)
    residuals = gls(X, X[:, 0] * 0 + np.arange(20.0), np.ones(20)).resid
    assert gls(X, residuals, np.ones(20), solver=solver).converged  # orthogonal to X


@pytest.mark.parametrize("solver", ["cg", "lsmr"])
def test_starts_and_caps(solver):
    rng = np.random.default_rng(14)
    X = sparse.csr_array(rng.standard_normal((200, 50)) * np.logspace(0, 1, 200)[:, None])
    covariance = low_rank(200, 5, 15)
    y = X @ np.ones(50) + covariance.sample(random_state=16)
    full = gls(X, y, covariance, solver=solver)
    again = gls(X, y, covariance, solver=solver, x0=full.params)
    assert again.n_cg == 0 and again.converged
    close(again.params, full.params, 1e-12)
    # From far off, recurrences drift from the true residual: another round makes up for it.
    far = gls(X, y, covariance, solver=solver, x0=1e10 * full.params)
    assert far.converged
    close(far.params, full.params, 1e-7)
    near = gls(X, y, covariance, solver=solver, x0=full.params * (1 + 1e-6))
    assert 0 < near.n_cg < full.n_cg
    close(near.params, full.params, 1e-7)
    with pytest.warns(ConvergenceWarning, match="cap of 0 iterations"):
        untouched = gls(X, y, covariance, solver=solver, x0=np.ones(50), maxiter=0)
    close(untouched.params, np.ones(50), 1e-12)
    with pytest.warns(ConvergenceWarning) as caught:
        capped = gls(X, y, covariance, solver=solver, maxiter=3)
    (warning,) = caught
    assert f"{solver} hit the cap of 3 iterations" in str(warning.message)
    assert f"{capped.residual:.1e}" in str(warning.message)
    assert warning.filename == __file__
    assert not capped.converged and capped.n_cg == 3 and capped.residual > 1e-10
    assert "no (" in capped.summary() and "NOT converged" in repr(capped)
    # The residual is what it says: the relative gradient of the least squares problem.
    S = covariance.toarray()
    B = X.toarray() / np.linalg.norm(X.toarray(), axis=0)
    gradient = B.T @ np.linalg.solve(S, y - X @ capped.params)
    first = B.T @ np.linalg.solve(S, y)
    v = B @ first / np.linalg.norm(first)
    size = np.sqrt(v @ np.linalg.solve(S, v) * (y @ np.linalg.solve(S, y)))
    assert capped.residual == pytest.approx(np.linalg.norm(gradient) / size, rel=1e-6)
    with pytest.warns(ConvergenceWarning, match="below what rounding allows"):
        stuck = gls(X, y, covariance, solver=solver, rtol=1e-30)
    assert not stuck.converged
    close(stuck.params, full.params, 1e-7)


def test_few_iterations_where_the_structure_is_simple():
    X = np.random.default_rng(17).standard_normal((500, 30))
    y = np.random.default_rng(18).standard_normal(500)
    assert gls(X, y, Identity(500)).n_cg == 1
    assert gls(X, y, low_rank(500, 1, 0)).n_cg <= 31
    assert gls(X, y, Identity(500), solver="qr").n_cg == 1


def test_tables_and_names():
    pd = pytest.importorskip("pandas")
    data = simulate_gls(3, MARKET["MLR"], random_state=19)
    X = pd.DataFrame(data.X, columns=["const", "a regressor of many words", "z"])
    y = pd.Series(data.y, name="wage")
    fit, plain = gls(X, y, MARKET["MLR"]), gls(data.X, data.y, MARKET["MLR"])
    np.testing.assert_allclose(fit.params, plain.params, rtol=1e-12)
    assert fit.names == tuple(X.columns) and fit.dependent == "wage" and plain.names is None
    frame = fit.to_frame(alpha=0.1)
    assert list(frame.index) == list(X.columns)
    assert list(frame.columns) == ["coef", "std err", "t", "P>|t|", "[0.05", "0.95]"]
    np.testing.assert_array_equal(frame.iloc[:, -2:], fit.conf_int(0.1))
    np.testing.assert_array_equal(frame["P>|t|"], fit.pvalues)
    assert list(plain.to_frame().index) == ["x0", "x1", "x2"]
    text = fit.summary()
    assert max(map(len, text.splitlines())) <= 78
    (line,) = (line for line in text.splitlines() if line.startswith("z "))
    expected = [*(x.iloc[2] for x in (fit.params, fit.bse, fit.tvalues, fit.pvalues)),
                *fit.conf_int().iloc[2]]
    np.testing.assert_allclose([float(x) for x in line.split()[1:]], expected, atol=6e-4)
    for piece in ("wage", "a regressor o...", "P>|t|", f"{fit.loglik:,.2f}", "MLR", "(estimated)"):
        assert piece in text
    for line in gls(X, 3e7 * X["z"], MARKET["MLR"]).summary().splitlines()[-4:-1]:
        assert len(line[16:].split()) == 6  # no two numbers touch
    known = gls(X, y, MARKET["MLR"], scale="known")
    assert "P>|z|" in known.summary() and "z" in known.to_frame().columns
    assert "not known" in gls(X, y, MARKET["sum"]).summary()
    named = gls(X["z"], y, MARKET["MLR"])
    assert named.names == ("z",)
    np.testing.assert_allclose(gls(X, y[::-1], MARKET["MLR"]).params, fit.params, rtol=1e-12)


def test_results_survive_pickling():
    data = simulate_gls(3, MARKET["kronecker"], random_state=20)
    for solver in SOLVERS:
        fit = gls(data.X, data.y, MARKET["kronecker"], solver=solver)
        back = pickle.loads(pickle.dumps(fit))
        np.testing.assert_array_equal(back.params, fit.params)
        np.testing.assert_allclose(back.bse, fit.bse, rtol=1e-14)


def test_inputs_stay_as_they_are():
    X, y = np.ones((5, 1)), np.arange(5.0)
    X.flags.writeable = y.flags.writeable = False
    S = np.eye(5)
    S.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gls(X, y, S).params == pytest.approx(2.0)
        assert gls(X.astype(int), [0, 1, 2, 3, 4], S.tolist()).params == pytest.approx(2.0)


def test_names_of_linearmodels_and_of_version_0_1():
    data = simulate_gls(2, Identity(20), random_state=0)
    with pytest.warns(DeprecationWarning, match=r"gls\(max_iter=\) is called maxiter= since"):
        fit = gls(data.X, data.y, np.ones(20), max_iter=50)
    assert fit.loglik == fit.llf
    for name, other in (("std_errors", "bse"), ("tstats", "tvalues"), ("resids", "resid"),
                        ("fitted_values", "fittedvalues")):
        np.testing.assert_array_equal(getattr(fit, name), getattr(fit, other))
    with pytest.warns(DeprecationWarning, match="GLSResult.n_iter is called GLSResult.n_cg since"):
        assert fit.n_iter == fit.n_cg
