"""Standard errors, tests and intervals of systems of regressions in chunks of equations."""

import numpy as np
import pytest
from test_distributed_sur import TREES, cut, draw

from mlrops import SUR, Hierarchy, als_gls
from mlrops.regression.sur.parts import standard_errors

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

# A cut two levels below the root, whose parents lie in two groups, with levels within the parts
# and one whose groups are single equations now and then.
DEEP = (Hierarchy.from_labels(np.repeat([0, 1], 24), np.repeat(np.arange(4), 12),
                              np.minimum(np.arange(48) // 4, 10)), (1, 1, 1, 1), (12, 24, 12))


@pytest.fixture(autouse=True)
def threads():
    with dask.config.set(scheduler="threads"):
        yield


def fitted(tree, X, Y, **options):
    """A fit in parts, and the same parameters in memory."""
    hierarchy, ranks, widths = TREES.get(tree, DEEP)
    fit = als_gls(*cut(X, Y, widths), ranks, hierarchy, max_iter=3, tol=0.5, **options)
    return fit, fit.gather()


def same(fit, one, rtol=1e-8):
    np.testing.assert_allclose(fit.bse.compute(), np.array(one.bse), rtol=rtol)
    np.testing.assert_allclose(fit.df_resid.compute(), one.df_resid, rtol=rtol)
    np.testing.assert_allclose(fit.tvalues.compute(), np.array(one.tvalues), rtol=rtol)
    np.testing.assert_allclose(fit.pvalues.compute(), np.array(one.pvalues), rtol=100 * rtol,
                               atol=1e-30)
    for alpha in (0.05, 0.3):
        found = fit.conf_int(alpha)
        assert found.shape == (*fit.params.shape, 2)
        np.testing.assert_allclose(found.compute(), np.array(one.conf_int(alpha)), rtol=rtol,
                                   atol=rtol)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("tree", [*TREES, "deep"])
def test_they_are_those_of_one_machine(tree):
    X, Y = draw(11, tree=tree if tree in TREES else "flat")
    fit, one = fitted(tree, X, Y)
    same(fit, one)
    same(fit.with_cov("unadjusted", debiased=False), one.with_cov("unadjusted", debiased=False))
    assert (fit.bse.compute() > fit.with_cov(debiased=False).bse.compute()).all()


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
@pytest.mark.parametrize("in_dask", [False, True], ids=["array", "dask"])
def test_of_shared_regressors(in_dask):
    X, Y = draw(7, shared=True)
    Xd, Yd = cut(X, Y, (20, 28))
    fit = als_gls(da.from_array(X) if in_dask else Xd, Yd, 2)
    same(fit, fit.gather())
    same(fit.with_cov(debiased=False), fit.gather().with_cov("unadjusted", debiased=False))
    np.testing.assert_allclose(fit.predict(X[:4]).compute(), X[:4] @ fit.params.compute().T)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_of_few_rows_without_factors_and_in_single_precision():
    X, Y = draw(12, n=12)
    same(*fitted("two levels", X, Y, prior=True))
    X, Y = draw(13, dtype=np.float32)
    fit, one = fitted("three levels", X, Y)
    same(fit, one, 1e-5)
    assert fit.bse.dtype == np.float64
    fit = SUR(cut(X, Y, (20, 28))[::-1]).fit(0, cov_kwds={"debiased": False})
    same(fit, fit.gather(), 1e-5)


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_they_are_computed_once(monkeypatch):
    """And by one machine only where none is asked for."""
    X, Y = draw(14)
    fit, _ = fitted("flat", X, Y)
    asked, honest = [], standard_errors._eliminated
    monkeypatch.setattr(standard_errors, "_eliminated", lambda *x: asked.append(1) or honest(*x))
    for _ in range(2):
        fit.bse.compute()
        fit.conf_int().compute()
    assert len(asked) == 3


@pytest.mark.filterwarnings("ignore::mlrops.ConvergenceWarning")
def test_what_is_not_known_in_parts_is_refused(monkeypatch):
    X, Y = draw(15)
    fit, _ = fitted("flat", X, Y)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 2"):
        fit.conf_int(2)
    monkeypatch.setattr(standard_errors, "MOST_PATH", 139)
    with pytest.raises(ValueError, match="70 times 2 on a path of the tree, of which 139 fit"):
        fit.bse  # noqa: B018
    ridge, _ = fitted("flat", X, Y, beta_ridge=1.0)
    with pytest.raises(ValueError, match=r"beta_ridge.*gather\(\)"):
        ridge.bse  # noqa: B018
