"""Pictures, by what they hold: dots, intervals, lines, names and their places."""

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from scipy.sparse import csr_array  # noqa: E402

from mlrops import MLR, GeneralMLR, Hierarchy, als_gls  # noqa: E402
from mlrops.datasets import simulate_sur  # noqa: E402
from mlrops.fitting import allocate_ranks  # noqa: E402
from mlrops.plotting import (
    plot_coefficients,
    plot_correlation,
    plot_levels,
    plot_loglik,
    plot_matrix,
    plot_rank_allocation,
)
from mlrops.regression.sur.model import SUR  # noqa: E402

FAMILY = ["b", "a", "b", "a", "c", "c", "a", "b"]
TEAM = ["b1", "a1", "b2", "a1", "c1", "c2", "a2", "b1"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fits():
    """Eight equations in a tree of three levels whose order is not that of the equations."""
    h = Hierarchy.from_labels(FAMILY, TEAM)
    sim = simulate_sur(8, 2, ranks=(1, 1, 0), hierarchy=h, n_samples=60, random_state=0)
    return {"OLS": als_gls(sim.Xs, sim.Y, 0), "SUR": als_gls(sim.Xs, sim.Y, (1, 1, 0), h)}


def dots(ax):
    """{label: (x, y)} of the markers of a panel."""
    return {line.get_label(): line.get_xydata() for line in ax.lines
            if line.get_marker() not in ("None", None, "")}


def segments(ax, data_only=True):
    """All horizontal segments in data coordinates, one array a collection."""
    return [np.array(c.get_segments()) for c in ax.collections if isinstance(c, LineCollection)
            and (c.get_transform() == ax.transData) == data_only]


def test_dots_and_intervals_are_the_coefficients_in_tree_order(fits):
    axes = plot_coefficients(fits, alpha=0.1)
    order = fits["SUR"].covariance.hierarchy.permutation
    assert len(axes) == 2 and not np.array_equal(order, np.arange(8))
    for i, ax in enumerate(axes):
        found = dots(ax)
        assert list(found) == ["OLS", "SUR"]
        for (label, fit), lines in zip(fits.items(), segments(ax), strict=True):
            np.testing.assert_allclose(found[label][:, 0], [fit.params[j][i] for j in order])
            ends = np.array([fit.conf_int(0.1)[j][i] for j in order])
            np.testing.assert_allclose(lines[:, :, 0], ends)
            np.testing.assert_array_equal(lines[:, 0, 1], found[label][:, 1])
    assert [text.get_text() for text in axes[0].get_yticklabels()] == [str(j) for j in order]
    assert axes[0].get_ylim() == (8, 0)
    assert any("90%" in text.get_text() for text in axes[0].figure.texts)


def test_several_results_stand_below_one_another_within_their_row(fits):
    ax = plot_coefficients({str(i): fits["SUR"] for i in range(5)})[0]
    rows = np.array([xy[:, 1] for xy in dots(ax).values()])
    assert np.all(np.diff(rows, axis=0) > 0.1)
    np.testing.assert_array_equal(np.floor(rows), np.tile(np.arange(8.0), (5, 1)))
    shapes = {line.get_marker() for line in ax.lines} - {"None"}
    colors = [matplotlib.colors.to_rgb(c.get_color()[0]) for c in ax.collections[:5]]
    grey = np.sort([np.dot(color, (0.299, 0.587, 0.114)) for color in colors])
    assert len(shapes) == 5 and np.all(np.diff(grey) > 0.08)  # told apart without colour


def test_groups_are_separated_and_the_coarsest_named(fits):
    axes = plot_coefficients(fits["SUR"])
    for ax in axes:
        coarse, fine = segments(ax, data_only=False)
        np.testing.assert_array_equal(coarse[:, 0, 1], [3, 6])
        np.testing.assert_array_equal(fine[:, 0, 1], [2, 5, 7])
    named = {text.get_text(): text.get_position()[1] for text in axes[-1].texts}
    assert named == {"a": 1.5, "b": 4.5, "c": 7.0}
    assert not axes[0].texts


def test_flat_fits_keep_the_order_of_the_equations_and_draw_no_lines(fits):
    ax = plot_coefficients(fits["OLS"])[1]
    (found,) = dots(ax).values()
    np.testing.assert_allclose(found[:, 0], [b[1] for b in fits["OLS"].params])
    assert not segments(ax, data_only=False) and not ax.texts
    assert not ax.figure.legends


def test_regressors_are_found_by_name_and_gaps_stay_empty():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((40, 3))
    X = rng.standard_normal((40, 2))
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["u", "v"])
    fit = SUR({"p": (y[:, 0], frame), "q": (y[:, 1], frame[["v"]]),
               "r": (y[:, 2], frame[["u"]])}).fit(1)
    (ax,) = plot_coefficients(fit, "u")
    (found,) = dots(ax).values()
    np.testing.assert_allclose(found, [(fit.params["p"]["u"], 0.5), (fit.params["r"]["u"], 2.5)])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["p", "q", "r"]
    assert [ax.get_title() for ax in plot_coefficients(fit)] == ["u", "v"]


def test_zero_is_drawn_only_where_it_is_near():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 2))
    Y = X @ [[5.0, 5.1], [0.0, 0.1]] + 0.1 * rng.standard_normal((200, 2))
    far, near = plot_coefficients(als_gls([X, X], Y, 0))
    assert sum(np.allclose(line.get_xdata(), 0) for line in near.lines) == 1
    assert not any(np.allclose(line.get_xdata(), 0) for line in far.lines)
    assert far.get_xlim()[0] > 4


def test_hundreds_of_equations_have_thin_lines_and_names_of_groups_only():
    K = 400
    h = Hierarchy.from_labels([f"g{j // 80}" for j in range(K)])
    covariance = MLR(h, [np.ones((K, 1)), np.ones((K, 1))], np.ones(K))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 1))
    fit = als_gls([X] * K, rng.standard_normal((30, K)), covariance=covariance)
    (ax,) = plot_coefficients(fit)
    assert not ax.get_yticklabels()
    assert [text.get_text() for text in ax.texts] == [f"g{i}" for i in range(5)]
    assert ax.collections[0].get_linewidth()[0] <= 0.5
    assert ax.figure.get_size_inches()[1] <= 12


def test_nothing_is_clipped_and_no_style_is_changed(fits):
    before = dict(matplotlib.rcParams)
    figure = plot_coefficients({f"fit {name}": fit for name, fit in fits.items()})[0].figure
    figure.canvas.draw()
    edges = figure.bbox
    for box in (*(ax.get_tightbbox() for ax in figure.axes),
                *(legend.get_window_extent() for legend in figure.legends)):
        assert box.x0 >= -1 and box.y0 >= -1
        assert box.x1 <= edges.x1 + 1 and box.y1 <= edges.y1 + 1
    assert dict(matplotlib.rcParams) == before


def test_axes_of_the_user_are_used_and_returned(fits):
    figure, given = plt.subplots(1, 2)
    axes = plot_coefficients(fits, axes=given)
    assert list(axes) == list(given) and plt.get_fignums() == [figure.number]
    assert [text.get_text() for text in given[0].get_legend().get_texts()] == ["OLS", "SUR"]
    assert not given[1].get_yticklabels()


def test_many_regressors_break_into_rows(fits):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 7))
    axes = plot_coefficients(als_gls([X] * 3, rng.standard_normal((40, 3)), 0))
    assert len(axes) == 7 and len(axes[0].figure.axes) == 7
    tops = [round(ax.get_position(original=True).y1, 6) for ax in axes]
    assert len(set(tops[:5])) == len(set(tops[5:])) == 1 and tops[0] > tops[6]


@pytest.mark.parametrize("how, message", [
    (dict(regressors=["7"]), "no equation has a regressor 7; there are 0, 1"),
    (dict(regressors=[]), "must name at least one"),
    (dict(axes=[None]), "axes must hold one for each of 2 regressors, got 1"),
])
def test_refusals(fits, how, message):
    with pytest.raises(ValueError, match=message):
        plot_coefficients(fits, **how)


def test_results_of_other_equations_are_refused(fits):
    rng = np.random.default_rng(0)
    other = als_gls([rng.standard_normal((40, 2))] * 3, rng.standard_normal((40, 3)), 0)
    with pytest.raises(ValueError, match="same equations, other and OLS differ"):
        plot_coefficients({**fits, "other": other})
    with pytest.raises(ValueError, match="one to 5 fits, got 0"):
        plot_coefficients({})
    X = rng.standard_normal((40, 13))
    with pytest.raises(ValueError, match="there are 13 regressors"):
        plot_coefficients(als_gls([X] * 2, rng.standard_normal((40, 2)), 0))


def test_levels_correlation_and_traces_of_a_covariance(fits):
    covariance = fits["SUR"].covariance
    axes = plot_levels(covariance)
    assert [ax.get_title() for ax in axes] == [
        "level 0: 1 group, rank 1", "level 1: 3 groups, rank 1", "level 2: 6 groups, rank 0",
        "diagonal D"]
    ax = plot_correlation(covariance, [f"n{j}" for j in range(8)])
    order = covariance.hierarchy.permutation
    scale = 1 / np.sqrt(covariance.diagonal())
    dense = (covariance.toarray() * np.outer(scale, scale))[np.ix_(order, order)]
    np.testing.assert_allclose(ax.images[0].get_array(), dense)
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"n{j}" for j in order]
    ax = plot_loglik(fits)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), fits["SUR"].loglik_trace)


@pytest.fixture(scope="module")
def rectangle():
    """A general operator on permuted trees of one shape with groups of unlike sizes."""
    rng = np.random.default_rng(0)
    rows = Hierarchy(rng.permutation(9), [[0, 9], [0, 3, 9], [0, 1, 3, 9]])
    cols = Hierarchy(rng.permutation(7), [[0, 7], [0, 5, 7], [0, 2, 5, 7]])
    return GeneralMLR(rows, cols, *([rng.standard_normal((h.n, r)) for r in (2, 0, 1)]
                                    for h in (rows, cols)))


def test_levels_of_a_rectangle_are_blocks_of_unequal_sides(rectangle):
    axes = plot_levels(rectangle, kind="blocks")
    assert [ax.get_title() for ax in axes] == [
        "level 0: 1 group, rank 2", "level 1: 2 groups, rank 0", "level 2: 3 groups, rank 1"]
    boxes = [[path.get_extents().extents.tolist() for path in ax.collections[0].get_paths()]
             for ax in axes]
    assert boxes[0] == [[0, 0, 7, 9]] and boxes[1] == [[0, 0, 5, 3], [5, 3, 7, 9]]
    assert boxes[2] == [[0, 0, 2, 1], [2, 1, 5, 3], [5, 3, 7, 9]]
    assert [len(ax.collections[0].get_facecolor()) for ax in axes] == [1, 0, 1]
    assert axes[0].get_xlim() == (0, 7) and axes[0].get_ylim() == (9, 0)


@pytest.mark.parametrize("kind", [lambda A: A, lambda A: A.toarray(),
                                  lambda A: csr_array(A.toarray())],
                         ids=["operator", "dense", "sparse"])
def test_matrices_are_drawn_in_tree_order(rectangle, kind):
    rows, cols = rectangle.rows, rectangle.cols
    ax = plot_matrix(kind(rectangle), rows, cols, level=1)
    dense = np.abs(rectangle.toarray()[np.ix_(rows.permutation, cols.permutation)])
    np.testing.assert_allclose(ax.images[0].get_array(), dense, atol=1e-12)
    assert ax.images[0].get_extent() == [0, 7, 9, 0]
    boxes = [path.get_extents().extents.tolist() for path in ax.collections[0].get_paths()]
    assert boxes == [[0, 0, 5, 3], [5, 3, 7, 9]]


@pytest.mark.parametrize("kind", [np.asarray, csr_array], ids=["dense", "sparse"])
def test_large_matrices_are_averaged(kind):
    rng = np.random.default_rng(0)
    rows, cols = (Hierarchy(rng.permutation(n), [[0, n]]) for n in (1200, 601))
    A = rng.standard_normal((1200, 601))
    figure, given = plt.subplots()
    ax = plot_matrix(kind(A), rows, cols, given, vmax=3.0)
    assert ax is given and ax.images[0].norm.vmax == 3
    pixels = np.abs(A[np.ix_(rows.permutation, cols.permutation)])
    pixels = pixels.reshape(600, 2, 601).mean(axis=1)
    drawn = ax.images[0].get_array()
    assert drawn.shape == (600, 600)
    np.testing.assert_allclose(drawn[:, :599], pixels[:, :599])
    np.testing.assert_allclose(drawn[:, 599], pixels[:, 599:].mean(axis=1))


def test_a_matrix_of_another_shape_is_refused(rectangle):
    with pytest.raises(ValueError, match=r"A must have shape \(9, 7\)"):
        plot_matrix(np.ones((7, 9)), rectangle.rows, rectangle.cols)


def test_rank_allocations_are_stacks_of_their_history():
    x = np.linspace(0, 1, 64)
    fit = allocate_ranks(1 / (0.02 + np.abs(x[:, None] - x)), 6,
                         Hierarchy.balanced(64, [1, 2, 4, 8]), start="top", random_state=0)
    before = dict(matplotlib.rcParams)
    ax = plot_rank_allocation(fit)
    assert dict(matplotlib.rcParams) == before
    ranks = np.array([r for r, _ in fit.history])
    assert len(ranks) > 2 and len(ax.collections) == 4
    for level, band in enumerate(ax.collections):
        corners = band.get_paths()[0].vertices
        for step, r in enumerate(ranks):
            # Within the step, halfway up the band, if there is a band; never just above it.
            low, top = r[:level].sum(), r[: level + 1].sum()
            path = band.get_paths()[0]
            assert path.contains_point((step, top + 0.25)) is False
            assert path.contains_point((step, low + 0.5 * r[level])) == (r[level] > 0)
        assert corners[:, 0].min() == -0.5 and corners[:, 0].max() == len(ranks) - 0.5
    named = [text.get_text() for text in ax.texts]
    assert named == [f"{level}: {r}" for level, r in enumerate(ranks[-1]) if r]
    above, = set(ax.figure.axes) - {ax}
    assert above.get_title() == f"error {fit.objective_trace[0]:.3g} to {fit.error:.3g}"
    np.testing.assert_array_equal(above.lines[0].get_ydata(), [*fit.objective_trace, fit.error])
    assert above.lines[0].get_drawstyle() == "steps-post" and above.get_ylim()[0] == 0
    grey = [np.dot(band.get_facecolor()[0][:3], (0.299, 0.587, 0.114)) for band in ax.collections]
    assert np.all(np.diff(grey) > 0.1)
