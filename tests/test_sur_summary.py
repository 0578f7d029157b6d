"""Printed summaries and tables of systems: every number is that of the result."""

from dataclasses import replace

import numpy as np
import pytest
from test_sur_tests import OPTIONS, grunfeld, known
from test_sur_variants import TREE, draw, variants

from mlrops import Hierarchy, als_gls
from mlrops.regression.sur.als_gls import SUROptions, fit_system
from mlrops.regression.sur.data import SystemNames

NAMES = ["General Motors Corporation", "US Steel", "GE"]


def named(**options):
    pd = pytest.importorskip("pandas")
    Xs, Y = grunfeld(3)
    frames = [pd.DataFrame(X, columns=["const", "value", "capital"]) for X in Xs]
    return als_gls(frames, pd.DataFrame(Y, columns=NAMES), **options)


def width(text):
    return max(map(len, text.splitlines()))


def fact(text, name):
    """What stands behind a name in the head of a summary."""
    (line,) = (line for line in text.splitlines() if name in line)
    return line.split(name)[1].split("  ")


def test_numbers_are_those_of_the_result():
    fit = named(ranks=1)
    text = fit.summary()
    assert width(text) == 78 and text.count("coef ") == 3
    test = fit.breusch_pagan()
    for name, value in (
        ("Equations", "3"), ("Rows", "20"), ("Observations", "60"), ("Coefficients", "9"),
        ("Log-likelihood", f"{20 * fit.loglik:,.2f}"), ("AIC", f"{fit.aic:,.2f}"),
        ("BIC", f"{fit.bic:,.2f}"), ("Degrees of freedom", str(fit.degrees_of_freedom)),
        ("McElroy R-squared", f"{fit.mcelroy_rsquared:.4f}"), ("Ranks", "1"), ("Groups", "1"),
        ("Breusch-Pagan", f"{test.statistic:,.2f} (p {test.pvalue:.3f})"),
        ("Estimator", "maximum likelihood"), ("Std. errors", "unadjusted"),
        ("Converged", f"yes ({fit.termination})"), ("Iterations", str(fit.n_iter)),
    ):
        assert value in [piece.strip() for piece in fact(text, name)], name
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("US Steel "))
    assert f"R-squared  {fit.rsquared['US Steel']:.4f}" in lines[at]
    assert lines[at].endswith(f"{np.sqrt(fit.covariance.diagonal()[1]):.4f}")
    assert any(line.startswith("General Motor...  ") for line in lines)
    row = next(line for line in lines[at:] if line.startswith("capital "))
    pair = "US Steel", "capital"
    expected = [fit.params[pair], fit.bse[pair], fit.tvalues[pair], fit.pvalues[pair],
                *fit.conf_int().loc[pair]]
    np.testing.assert_allclose([float(x) for x in row.split()[1:]], expected, atol=6e-4)


def test_table_of_all_coefficients():
    pd = pytest.importorskip("pandas")
    fit = named(ranks=1)
    frame = fit.to_frame(alpha=0.1)
    assert list(frame.columns) == ["coef", "std err", "t", "P>|t|", "[0.05", "0.95]"]
    assert frame.index.equals(fit.params.index)
    pd.testing.assert_series_equal(frame["coef"], fit.params, check_names=False)
    pd.testing.assert_series_equal(frame["P>|t|"], fit.pvalues, check_names=False)
    np.testing.assert_array_equal(frame.iloc[:, 4:], fit.conf_int(0.1))
    data, sigma = draw()
    plain = known(data, sigma)
    frame = plain.to_frame()
    assert list(frame.columns[2:4]) == ["z", "P>|z|"] and frame.shape == (15, 6)
    assert frame.loc[(5, 3), "coef"] == plain.params[5][3]
    assert frame.loc[(2, 0), "std err"] == plain.bse[2][0]


def test_kinds_of_standard_errors_are_named():
    fit = named(ranks=1).with_cov("robust")
    text = fit.summary()
    assert "robust" in [piece.strip() for piece in fact(text, "Std. errors")]
    row = next(line for line in text.splitlines() if line.startswith("value "))
    assert float(row.split()[2]) == pytest.approx(fit.bse.iloc[1], abs=6e-5)


def test_equations_are_cut():
    data, sigma = draw()
    fit = known(data, sigma)
    text = fit.summary(max_equations=2)
    assert "equation 1 " in text and "equation 2 " not in text and "x0 " in text
    assert "... and 4 more equations" in text and "more" not in fit.summary()
    with pytest.raises(TypeError, match="max_equations must be an integer"):
        fit.summary(max_equations=1.5)


def test_no_equation_needs_no_standard_errors(monkeypatch):
    fit = known(*draw())
    monkeypatch.setattr("mlrops.regression.sur.summary.inference_of", None)
    assert "coef" not in fit.summary(max_equations=0)


def test_notes():
    data, sigma = draw()
    text = known(variants(data)["all"], sigma).summary()
    missing = int((~variants(data)["all"].observed).sum())
    assert "known: z in place of t" in text and "P>|z|" in text
    assert f"Missing cells: {missing} of 360." in text
    assert "Linear constraints on the coefficients: 3." in text and "weighted" in text
    assert "GLS, known errors" in text
    (line,) = (line for line in text.splitlines() if line.startswith("equation 1 "))
    assert f" {variants(data)['all'].nobs[1]} observations" in line
    assert width(text) == 78
    plain = fit_system(data, (1, 1, 0), TREE, OPTIONS).summary()
    for word in ("Missing", "constraints", "weighted", "known", "Penalty", "Heywood", "Not conv"):
        assert word not in plain
    options = SUROptions(beta_ridge=2.0, factor_ridge=0.5)
    ridge = fit_system(data, 1, None, options).summary()
    assert "beta_ridge 2;" in ridge and "factor_ridge 0.5;" in ridge


@pytest.mark.filterwarnings("ignore:.*Heywood")
def test_heywood_cases_are_named():
    pytest.importorskip("pandas")
    data = variants(draw(seed=7)[0])["all"]
    names = SystemNames(("Acme", "B", "Brown and Son and Nephew", "D", "E", "F"),
                        tuple(tuple(f"r{i}" for i in range(p)) for p in data.p))
    fit = fit_system(replace(data, names=names), (1, 1, 0), TREE, OPTIONS)
    assert fit.boundary.tolist() == [2]
    assert "Variances at the floor (Heywood cases): 1 (Brown and Son...)." in fit.summary()


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_small_groups_and_unfinished_fits_are_named():
    fit = named(ranks=(0, 2), hierarchy=Hierarchy.from_labels(["heavy", "heavy", "light"]))
    text = fit.summary()
    assert "for their rank: 1 (level 1 group light)." in text
    assert "0, 2" in [piece.strip() for piece in fact(text, "Ranks")]
    assert "1, 2" in [piece.strip() for piece in fact(text, "Groups   ")]
    short = als_gls(*grunfeld(5), 1, max_iter=1).summary()
    assert "no (max_iter)" in short and "Not converged: stopped on max_iter." in short


def test_one_equation_without_regressors():
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((30, 1))
    text = als_gls([np.empty((30, 0))], Y, 0).summary()
    assert "Breusch-Pagan" not in text and "equation 0" in text and "coef" not in text
    Xs = [np.empty((30, 0)), rng.standard_normal((30, 1))]
    two = als_gls(Xs, rng.standard_normal((30, 2)), 0).summary()
    assert two.count("coef") == 1


def test_no_two_numbers_touch():
    data, sigma = draw()
    data = replace(data, Xs=[X * np.logspace(-12, 12, X.shape[1]) for X in data.Xs])
    for line in known(data, sigma).summary().splitlines():
        if line.startswith("x"):
            assert len(line.split()) == 7


def test_an_equation_without_residuals_has_no_test_of_their_correlation():
    data, sigma = draw()
    Y = data.Y.copy()
    Y[:, 2] = 0
    fit = known(replace(data, Y=Y), sigma)
    with pytest.raises(ValueError, match=r"fitted exactly by its regressors \(equation 2\)"):
        fit.breusch_pagan()
    assert "none" in [piece.strip() for piece in fact(fit.summary(), "Breusch-Pagan")]


def test_one_equation_is_singular():
    Xs, Y = grunfeld(1)
    assert repr(als_gls(Xs, Y, 0)).startswith("<SURResult: 1 equation, 3 coefficients, 20 rows")
