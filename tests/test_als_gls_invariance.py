"""`als_gls` where units, order, solver, precision and the kind of input must not matter."""

import tracemalloc

import numpy as np
import pytest
from systems import SHARP, TREE, dense_loglik, draw, flat

from mlrops import Hierarchy, als_gls, em_gls


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_of_y_do_not_matter(scale):
    Xs, Y, _, _ = draw()
    fit, other = als_gls(Xs, Y, 2, **SHARP), als_gls(Xs, scale * Y, 2, **SHARP)
    assert fit.converged and other.converged
    np.testing.assert_allclose(flat(other.params), scale * flat(fit.params), rtol=1e-6,
                               atol=1e-7 * scale)
    np.testing.assert_allclose(other.covariance.toarray(), scale**2 * fit.covariance.toarray(),
                               rtol=1e-5, atol=1e-8 * scale**2)
    assert np.isclose(other.loglik, fit.loglik - 12 * np.log(scale), rtol=1e-9)


def test_units_of_each_regressor_do_not_matter():
    Xs, Y, _, _ = draw()
    units = [np.logspace(-8, 8, X.shape[1]) for X in Xs]
    fit = als_gls(Xs, Y, 2, **SHARP)
    other = als_gls([X * u for X, u in zip(Xs, units, strict=True)], Y, 2, **SHARP)
    np.testing.assert_allclose(flat(other.params) * flat(units), flat(fit.params), rtol=1e-6)
    np.testing.assert_allclose(flat(other.bse) * flat(units), flat(fit.bse), rtol=1e-6)
    assert np.isclose(other.loglik, fit.loglik, rtol=1e-10)


@pytest.mark.parametrize("hierarchy", [None, TREE], ids=["flat", "tree"])
def test_order_of_equations_does_not_matter(hierarchy):
    ranks = (2,) if hierarchy is None else (1, 0, 1)
    Xs, Y, _, _ = draw(hierarchy=hierarchy, ranks=ranks)
    fit = als_gls(Xs, Y, ranks, hierarchy, **SHARP)
    order = np.random.default_rng(0).permutation(12)
    if hierarchy is not None:
        position = np.argsort(order)
        hierarchy = Hierarchy(position[TREE.permutation], TREE.boundaries)
    other = als_gls([Xs[j] for j in order], Y[:, order], ranks, hierarchy, **SHARP)
    np.testing.assert_allclose(flat(other.params), flat([fit.params[j] for j in order]), rtol=1e-5,
                               atol=1e-6)
    np.testing.assert_allclose(other.covariance.toarray(),
                               fit.covariance.toarray()[np.ix_(order, order)], atol=1e-5)
    np.testing.assert_allclose(other.resid, fit.resid[:, order], atol=1e-5)
    np.testing.assert_allclose(flat(other.bse), flat([fit.bse[j] for j in order]), rtol=1e-5)


def test_solvers_agree_on_an_ill_conditioned_design():
    Xs, Y, _, _ = draw(seed=5)
    Xs = [np.vander(X[:, 1], 6) if X.shape[1] == 2 else X for X in Xs]
    cg, lsmr = (als_gls(Xs, Y, 2, solver=s, **SHARP) for s in ("cg", "lsmr"))
    assert np.isclose(cg.loglik, lsmr.loglik, rtol=1e-10)
    np.testing.assert_allclose(flat(cg.params), flat(lsmr.params), rtol=1e-4, atol=1e-6)
    assert sum(lsmr.n_cg) and len(cg.n_cg) == cg.n_iter


def test_shared_regressors_give_least_squares():
    Xs, Y, _, _ = draw()
    fit = als_gls([Xs[2]] * 12, Y, 2)
    np.testing.assert_allclose(np.stack(fit.params).T, np.linalg.lstsq(Xs[2], Y, rcond=None)[0])
    assert set(fit.n_cg) == {0} and fit.termination == "gradient"
    dense = em_gls([Xs[2]] * 12, Y, 2, tol=0.0, gtol=1e-6)
    assert np.isclose(fit.loglik, dense.loglik, rtol=1e-8)


@pytest.mark.slow
def test_single_precision():
    Xs, Y, _, _ = draw()
    double = als_gls(Xs, Y, 2)
    single = als_gls([X.astype(np.float32) for X in Xs], Y.astype(np.float32), 2)
    assert single.params[0].dtype == single.resid.dtype == single.covariance.dtype == np.float32
    assert single.converged and np.isclose(single.loglik, double.loglik, rtol=1e-5)
    np.testing.assert_allclose(flat(single.params), flat(double.params), atol=5e-3)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_fewer_rows_than_equations():
    Xs, Y, betas, sigma = draw(K=30, N=20, ranks=(1,))
    fit = als_gls(Xs, Y, 1, variance_floor=1e-3)
    value = dense_loglik(Xs, Y, fit.params, fit.covariance.toarray())
    assert np.isclose(fit.loglik, value, rtol=1e-12)
    assert value > dense_loglik(Xs, Y, betas, sigma.toarray())
    dense = em_gls(Xs, Y, 1, variance_floor=1e-3, tol=1e-12)
    assert np.isclose(fit.loglik, dense.loglik, rtol=1e-6)


@pytest.mark.slow
def test_nothing_of_size_K_by_K_is_formed():
    K, N = 2000, 40
    rng = np.random.default_rng(0)
    Xs = list(rng.standard_normal((K, N, 2)))
    Y = rng.standard_normal((N, 2)) @ rng.standard_normal((2, K)) + rng.standard_normal((N, K))
    als_gls(Xs, Y, 2)  # what is compiled takes memory, too
    tracemalloc.start()
    try:
        fit = als_gls(Xs, Y, 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fit.converged
    # 16 arrays like Y for regressors, residuals and factors; one K×K matrix would be 50.
    assert peak < 16 * Y.nbytes < 0.5 * 8 * K**2


def test_frames_are_taken():
    pd = pytest.importorskip("pandas")
    Xs, Y, _, _ = draw()
    fit = als_gls([pd.DataFrame(X) for X in Xs], pd.DataFrame(Y), 2)
    np.testing.assert_allclose(fit.params, flat(als_gls(Xs, Y, 2).params), atol=1e-5)
    assert fit.params.index[3] == ("1", "1") and fit.resid.shape == Y.shape
