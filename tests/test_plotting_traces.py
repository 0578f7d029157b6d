"""Pictures of traces, ranks, correlations and shares, by the lines, bars and words they hold."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from mlrops import MLR, Hierarchy, fit_factor_model, partition  # noqa: E402
from mlrops.datasets import gauss_transform  # noqa: E402
from mlrops.fitting import allocate_ranks  # noqa: E402
from mlrops.plotting import (
    plot_correlation,
    plot_loglik,
    plot_rank_allocation,
    plot_variance_shares,
)
from mlrops.plotting._axes import spread_apart  # noqa: E402

SECTOR = ["b", "a", "b", "a", "c", "c", "a", "b"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(0)
    h = Hierarchy.from_labels(SECTOR)
    Y = rng.standard_normal((80, 1)) + rng.standard_normal((80, 3))[:, h.labels(1)]
    return fit_factor_model(Y + rng.standard_normal((80, 8)) * np.linspace(1, 2, 8), (1, 1), h)


@pytest.fixture(scope="module")
def covariance():
    rng = np.random.default_rng(0)
    h = Hierarchy.from_labels(SECTOR, [f"{s}{i % 2}" for i, s in enumerate(SECTOR)])
    return MLR(h, [rng.uniform(0.5, 1, (8, r)) for r in (1, 2, 0)], rng.uniform(0.5, 2, 8))


def traces(*all_of):
    return {f"fit {i}": SimpleNamespace(loglik_trace=np.array(x, float))
            for i, x in enumerate(all_of)}


# -------------------------------------------------------------------- likelihoods


def test_a_single_result_is_drawn_without_a_name(fit):
    ax = plot_loglik(fit)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), fit.loglik_trace)
    np.testing.assert_array_equal(line.get_xdata(), np.arange(fit.n_iter + 1) + 1)
    assert [text.get_text() for text in ax.texts] == [f"{fit.loglik_trace[-1]:.2f}"]
    assert ax.get_xscale() == "log" and ax.get_yscale() == "linear"


def test_gaps_are_below_the_best_of_all():
    ax = plot_loglik(traces([0, 5, 9], [1, 8, 8.5, 8.75]), gap=True)
    assert ax.get_yscale() == "log"
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(1, 9), (2, 4)])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [8, 1, 0.5, 0.25])
    assert {text.get_text() for text in ax.texts} == {"fit 0\n9.00", "fit 1\n8.75"}
    low, high = ax.get_ylim()
    assert low < 0.25 and high > 9


def test_seconds_take_the_place_of_iterations():
    two = traces([0, 5, 9], [1, 8])
    ax = plot_loglik(two, seconds={"fit 0": [0.1, 0.2, 0.4], "fit 1": [1, 2]})
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 0.2, 0.4])
    assert ax.get_xscale() == "linear" and ax.get_xlabel() == "seconds"
    np.testing.assert_allclose(
        plot_loglik(two["fit 0"], seconds=[1, 2, 4]).lines[0].get_xdata(), [1, 2, 4])
    with pytest.raises(ValueError, match="seconds must hold 2 for the trace of fit 1, .* got 0"):
        plot_loglik(two, seconds={"fit 0": [0.1, 0.2, 0.4]})
    with pytest.raises(ValueError, match="seconds must hold 3 for the trace of the fit.* got 2"):
        plot_loglik(two["fit 0"], seconds=[1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(2.5, 1.8), (6.4, 4.8)])
@pytest.mark.parametrize("gap", [False, True])
def test_names_of_traces_neither_meet_nor_leave_the_axes(size, gap):
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    plot_loglik(traces(*([0, 5, 9 - 1e-3 * i] for i in range(6))), ax, gap=gap)
    figure.canvas.draw()
    found = [text.get_window_extent() for text in ax.texts]
    found.sort(key=lambda box: box.y0)
    assert len(found) == 6
    assert all(a.y1 <= b.y0 + 1 for a, b in zip(found[:-1], found[1:], strict=True))
    inside = ax.get_window_extent()
    assert all(box.x1 <= figure.bbox.x1 for box in found)
    assert inside.width > 0.6 * figure.bbox.width and inside.height > 0.6 * figure.bbox.height
    assert found[0].y0 >= inside.y0 - 2 and found[-1].y1 <= inside.y1 + 2


def test_lines_differ_without_colour():
    ax = plot_loglik(traces(*([0, i] for i in range(1, 7))))
    looks = [(np.dot(matplotlib.colors.to_rgb(line.get_color()), (0.299, 0.587, 0.114)),
              line.get_linestyle() == "-") for line in ax.lines]
    for dashed in (False, True):
        grey = np.sort([grey for grey, plain in looks if plain != dashed])
        assert len(grey) == 3 and np.all(np.diff(grey) > 0.08)


def test_traces_are_checked(fit):
    with pytest.raises(TypeError, match="results with a loglik_trace, or a dict of them, got list"):
        plot_loglik([fit])
    with pytest.raises(ValueError, match="one to 6 fits, got 0"):
        plot_loglik({})
    assert len(plot_loglik(traces([3.0]), gap=True).lines[0].get_xdata()) == 0
    assert not np.isnan(plot_loglik(traces([3.0])).get_ylim()).any()


@pytest.mark.parametrize("centres, least, limits, expected", [
    ([1, 5, 9], 2, (-np.inf, np.inf), [1, 5, 9]),
    ([1, 1, 9], 2, (-np.inf, np.inf), [0, 2, 9]),
    ([1, 1, 2.5], 2, (-np.inf, np.inf), [-0.5, 1.5, 3.5]),
    ([1, 1, 9], 2, (0.5, 8), [0.5, 2.5, 8]),
    ([9, 9, 9], 2, (0, 10), [6, 8, 10]),
    ([], 2, (0, 1), []),
])
def test_labels_are_spread_apart(centres, least, limits, expected):
    np.testing.assert_allclose(spread_apart(centres, least, *limits), expected)


# -------------------------------------------------------------------- ranks


@pytest.fixture(scope="module")
def allocation():
    A = gauss_transform(120, 90, random_state=0).A
    return allocate_ranks(A, 20, *partition(A, 5, random_state=0), start="bottom", random_state=0)


@pytest.mark.slow
def test_ranks_as_a_heat_map(allocation):
    figure, (above, given) = plt.subplots(2, figsize=(8, 5))
    ax = plot_rank_allocation(allocation, given, kind="heat", error_ax=above)
    ranks = np.array([r for r, _ in allocation.history])
    assert ax is given and ranks.shape[0] > 5
    np.testing.assert_array_equal(ax.images[0].get_array(), ranks.T)
    assert ax.images[0].get_extent() == [-0.5, len(ranks) - 0.5, 4.5, -0.5]
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"level {i}" for i in range(5)]
    written = {text.get_position(): text.get_text() for text in ax.texts
               if not hasattr(text, "xy")}
    for (step, level), text in written.items():
        assert text == str(ranks[step, level])
        assert step == 0 or ranks[step, level] != ranks[step - 1, level]
    ends = [(text.xy[1], text.get_text()) for text in ax.texts if hasattr(text, "xy")]
    assert ends == [(level, str(r)) for level, r in enumerate(ranks[-1]) if r]
    np.testing.assert_array_equal(above.lines[0].get_ydata()[:-1], allocation.objective_trace)
    assert above.get_xlim() == ax.get_xlim() and above.get_title().startswith("error ")


def test_stacked_ranks_keep_to_the_axes_given(allocation):
    figure, given = plt.subplots()
    ax = plot_rank_allocation(allocation, given)
    assert ax is given and figure.axes == [given]
    assert ax.get_title() == f"error {allocation.objective_trace[0]:.3g} to {allocation.error:.3g}"
    assert ax.get_ylim() == (0, 20)
    figure.canvas.draw()
    found = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in zip(found[:-1], found[1:], strict=True))


def test_rank_allocations_are_checked(allocation):
    with pytest.raises(TypeError, match="expects a RankAllocation, got list"):
        plot_rank_allocation([1, 2])
    with pytest.raises(ValueError, match="kind must be 'stack' or 'heat', got 'steps'"):
        plot_rank_allocation(allocation, kind="steps")


# -------------------------------------------------------------------- correlations


def group_names(ax):
    if not ax.child_axes:
        return {}
    (above,) = ax.child_axes
    return dict(zip([t.get_text() for t in above.get_xticklabels()], above.get_xticks(),
                    strict=True))


def test_groups_are_named_above_their_blocks(covariance):
    assert group_names(plot_correlation(covariance)) == {"a": 1.5, "b": 4.5, "c": 7.0}
    assert group_names(plot_correlation(covariance, groups=["x", "y", "z"])) == {
        "x": 1.5, "y": 4.5, "z": 7.0}
    assert not group_names(plot_correlation(covariance, groups=()))
    flat = MLR(Hierarchy.flat(4), [np.ones((4, 1))], np.ones(4))
    assert not group_names(plot_correlation(flat))
    long = plot_correlation(covariance, groups=["a name that is much longer than its block"] * 3)
    assert all(t.get_rotation() == 90 for t in long.child_axes[0].get_xticklabels())
    with pytest.raises(ValueError, match="groups must name the 3 groups of level 1, got 2"):
        plot_correlation(covariance, groups=["x", "y"])
    with pytest.raises(ValueError, match="no level has several, got 2"):
        plot_correlation(flat, groups=["x", "y"])


def test_blocks_are_outlined_level_by_level(covariance):
    ax = plot_correlation(covariance)
    found = [[path.get_extents().extents[[0, 2]].tolist() for path in c.get_paths()]
             for c in ax.collections]
    assert found == [[[a, b] for a, b in zip(off[:-1], off[1:], strict=True)]
                     for off in covariance.hierarchy.boundaries[1:]]


def test_the_scale_begins_at_the_smallest_correlation(covariance):
    assert plot_correlation(covariance).images[0].get_clim() == (0, 1)
    signs = np.where(np.arange(8) % 2, 1, -1)[:, None]
    signed = MLR(covariance.hierarchy, [f * signs for f in covariance.factors], covariance.D)
    image = plot_correlation(signed).images[0]
    low = image.get_array().min()
    assert -1 <= image.get_clim()[0] <= low < image.get_clim()[0] + 0.1 + 1e-9 <= 0
    np.testing.assert_allclose(np.diag(image.get_array()), 1)


def test_thousands_of_features_have_names_of_groups_only():
    h = Hierarchy.from_labels([f"g{i % 5}" for i in range(2000)], np.arange(2000) % 1000)
    A = MLR(h, [np.ones((2000, 1))] * 3, np.ones(2000))
    ax = plot_correlation(A, [f"feature {i}" for i in range(2000)])
    assert not ax.get_yticklabels() and list(group_names(ax)) == [f"g{i}" for i in range(5)]
    assert len(ax.collections) == 1  # a thousand outlines would hide what they outline
    with pytest.raises(ValueError, match="names must hold 2000, got 3"):
        plot_correlation(A, ["x", "y", "z"])


@pytest.mark.slow
def test_correlations_of_results_and_inverses(fit, covariance):
    drawn = plot_correlation(fit).images[0].get_array()
    order = fit.covariance.hierarchy.permutation
    dense = fit.correlation.toarray() if hasattr(fit.correlation, "toarray") else (
        fit.correlation().toarray())
    np.testing.assert_allclose(drawn, dense[np.ix_(order, order)])
    inverse = np.linalg.inv(covariance.toarray())
    scale = 1 / np.sqrt(np.diag(inverse))
    order = covariance.hierarchy.permutation
    np.testing.assert_allclose(
        plot_correlation(covariance.inv()).images[0].get_array(),
        (inverse * np.outer(scale, scale))[np.ix_(order, order)], atol=1e-12)
    with pytest.raises(TypeError, match="expects an MLR or MLRInverse, .* got ndarray"):
        plot_correlation(np.eye(4))


# -------------------------------------------------------------------- shares


def shares_of(ax, bars):
    """(bar from the top, level) widths; the total apart."""
    collections = ax.collections
    half = len(collections) // 2
    def widths(c):
        return np.array([path.get_extents().width for path in c.get_paths()])
    return (np.stack([widths(c) for c in collections[:half]], axis=1),
            np.concatenate([widths(c) for c in collections[half:]]))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["covariance", "correlation"])
def test_shares_are_those_of_the_result(fit, by):
    ax = plot_variance_shares(fit, by=by, names=[f"n{i}" for i in range(8)])
    order = fit.covariance.hierarchy.permutation
    bars, total = shares_of(ax, 8)
    np.testing.assert_allclose(bars, fit.variance_shares("feature")[order], atol=1e-12)
    np.testing.assert_allclose(total, fit.variance_shares(by), atol=1e-12)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["total", *(f"n{i}" for i in order)]
    assert ax.get_ylim()[0] == 8 and ax.get_ylim()[1] < -1
    residual = ax.collections[len(ax.collections) // 2 - 1].get_facecolor()[0]
    assert residual[0] == residual[1] == residual[2]
    assert [t.get_text().split("  ")[0] for t in ax.get_legend().get_texts()] == [
        "level 0", "level 1", "residual"]


@pytest.mark.parametrize("by", ["covariance", "correlation"])
def test_shares_of_groups_weigh_their_features(covariance, by):
    ax = plot_variance_shares(covariance, level=1, by=by)
    parts = np.stack([*(np.square(f).sum(axis=1) for f in covariance.factors), covariance.D], 1)
    if by == "correlation":
        parts /= covariance.diagonal()[:, None]
    expected = np.stack([parts[covariance.hierarchy.labels(1) == g].sum(axis=0)
                         for g in range(3)])
    bars, total = shares_of(ax, 3)
    np.testing.assert_allclose(bars, expected / expected.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(total, parts.sum(axis=0) / parts.sum())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["total", "a", "b", "c"]
    finest = plot_variance_shares(covariance, level=-1)
    assert [t.get_text() for t in finest.get_yticklabels()][1:] == list(
        covariance.hierarchy.names(2))


def test_shares_of_many_features_have_names_of_groups():
    h = Hierarchy.from_labels([f"g{i % 5}" for i in range(500)])
    ax = plot_variance_shares(MLR(h, [np.ones((500, 1))] * 2, np.ones(500)))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["total", *(f"g{i}" for i in range(5))]
    np.testing.assert_allclose(ax.get_yticks()[1:], np.arange(50, 500, 100))


def test_shares_are_checked(fit, covariance):
    with pytest.raises(TypeError, match="expects an MLR, or a result that holds one, got MLRInv"):
        plot_variance_shares(covariance.inv())
    with pytest.raises(ValueError, match="by must be 'covariance' or 'correlation', got 'group'"):
        plot_variance_shares(fit, by="group")
    with pytest.raises(ValueError, match="names must hold 3, got 8"):
        plot_variance_shares(fit, level=1, names=SECTOR)
    with pytest.raises(IndexError, match="level 5 is out of range"):
        plot_variance_shares(fit, level=5)
