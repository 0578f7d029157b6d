"""What holds of every picture: where it is drawn, what it leaves alone, colours, edges."""

import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402

import mlrops.plotting as plotting  # noqa: E402
from mlrops import MLR, Hierarchy, allocate_ranks, fit_factor_model  # noqa: E402
from mlrops.plotting._axes import LEVEL_COLORS, ink_on, level_colors  # noqa: E402

SMALL = Hierarchy.from_labels(["tech", "bank", "tech", "bank", "tech"],
                              ["chips", "retail", "web", "retail", "chips"])
LARGE = Hierarchy.from_labels([f"sector {i % 4}" for i in range(120)],
                              [f"{i % 4}.{i % 24}" for i in range(120)])


def mlr(h):
    rng = np.random.default_rng(0)
    return MLR(h, [rng.standard_normal((h.n, 1)) for _ in range(3)], rng.uniform(1, 2, h.n))


def fit():
    rng = np.random.default_rng(0)
    return fit_factor_model(rng.standard_normal((40, 1)) + rng.standard_normal((40, 6)), ranks=1)


def allocation():
    x = np.linspace(0, 1, 32)
    return allocate_ranks(1 / (0.02 + np.abs(x[:, None] - x)), 4,
                          Hierarchy.balanced(32, [1, 2, 4, 8]), start="top", random_state=0)


def names(h):
    return [f"name {i}" for i in range(h.n)]


SINGLE = {
    f"{what} of {h.n}": draw for h in (SMALL, LARGE) for what, draw in {
        "icicle": lambda ax, h=h: plotting.plot_hierarchy(h, ax, names=names(h)),
        "blocks": lambda ax, h=h: plotting.plot_hierarchy(h, ax, kind="blocks", names=names(h)),
        "F": lambda ax, h=h: plotting.plot_sparsity(mlr(h), ax=ax),
        "U": lambda ax, h=h: plotting.plot_sparsity(mlr(h), "U", ax),
        "expanded": lambda ax, h=h: plotting.plot_sparsity(mlr(h), "expanded", ax),
        "cholesky": lambda ax, h=h: plotting.plot_sparsity(mlr(h), "cholesky", ax),
        "colamd": lambda ax, h=h: plotting.plot_sparsity(mlr(h), "cholesky", ax, order="colamd"),
        "matrix": lambda ax, h=h: plotting.plot_matrix(mlr(h), h, ax=ax),
        "correlation": lambda ax, h=h: plotting.plot_correlation(mlr(h), names(h), ax),
        "shares": lambda ax, h=h: plotting.plot_variance_shares(mlr(h), ax),
        "group shares": lambda ax, h=h: plotting.plot_variance_shares(mlr(h), ax, level=1),
    }.items()
} | {
    "loglik": lambda ax: plotting.plot_loglik({"one": fit(), "two": fit()}, ax),
    "gap": lambda ax: plotting.plot_loglik(fit(), ax, gap=True),
    "stack": lambda ax: plotting.plot_rank_allocation(allocation(), ax),
    "heat": lambda ax: plotting.plot_rank_allocation(allocation(), ax, kind="heat"),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def untouched(monkeypatch):
    """Nothing is shown, and no style is changed."""
    def refuse(*args, **kwargs):
        raise AssertionError("a picture was shown")

    monkeypatch.setattr(plt, "show", refuse)
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


@pytest.mark.quick(9)
@pytest.mark.parametrize("name", SINGLE)
def test_axes_given_are_used_and_returned(name, untouched):
    figure, (given, other) = plt.subplots(1, 2)
    plt.sca(other)
    assert SINGLE[name](given) is given
    assert plt.get_fignums() == [figure.number] and plt.gca() is other
    assert not other.has_data() and given.has_data()


@pytest.mark.quick(9)
@pytest.mark.parametrize("name", SINGLE)
def test_axes_of_a_figure_without_pyplot_do(name, untouched):
    given = matplotlib.figure.Figure().subplots()
    assert SINGLE[name](given) is given
    given.figure.canvas.draw()
    assert not plt.get_fignums()


@pytest.mark.quick(9)
@pytest.mark.parametrize("name", SINGLE)
def test_new_figures_are_not_clipped(name, untouched):
    figure = SINGLE[name](None).figure
    assert len(plt.get_fignums()) == 1
    figure.canvas.draw()
    for box in (ax.get_tightbbox() for ax in figure.axes):
        assert box.x0 >= -1 and box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


@pytest.mark.parametrize("kind", ["entries", "blocks"])
def test_panels_given_are_used_and_returned(kind, untouched):
    figure, given = plt.subplots(2, 2)
    axes = plotting.plot_levels(mlr(LARGE), given, kind=kind)
    assert list(axes) == list(given.ravel()) and plt.get_fignums() == [figure.number]
    figure = plotting.plot_levels(mlr(LARGE), kind=kind)[0].figure
    figure.canvas.draw()
    for box in (ax.get_tightbbox() for ax in figure.axes):
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_no_axes_is_refused(name):
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes, got str"):
        SINGLE[name]("ax")
    assert not plt.get_fignums()


def test_matplotlib_is_imported_when_something_is_drawn():
    code = "import sys, mlrops.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_to_do_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "mlrops\[plot\]"'):
        plotting.plot_hierarchy(SMALL)


# -------------------------------------------------------------------- colours

# Linear RGB as seen without the cones for green, or for red (Machado, Oliveira, Fernandes, 2009).
BLINDNESS = {
    "none": np.eye(3),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
}


def linear(color):
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear sRGB; a difference of 2.3 is just seen, in L* also in grey."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                    [0.0193, 0.1192, 0.9505]]) @ rgb / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_levels_are_told_apart_with_any_eyes(kind):
    seen = [lab(np.clip(BLINDNESS[kind] @ linear(c), 0, 1)) for c in LEVEL_COLORS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


@pytest.mark.parametrize("count, least", [(6, 10), (9, 6), (16, 3)])
def test_levels_are_told_apart_in_grey(count, least):
    lightness = [lab(linear(c))[0] for c in level_colors(count)]
    assert len(lightness) == count and np.all(np.diff(lightness) > least)
    assert lightness[-1] < 95  # seen on white


@pytest.mark.parametrize("count", [6, 12])
def test_letters_stand_out_from_their_colour(count):
    for color in level_colors(count):
        y = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (color, ink_on(color)))
        assert y[1] / y[0] > 3


def test_kinds_of_nonzeros_are_told_apart():
    from mlrops.plotting.sparsity import FILL, PLAIN, REDUCED

    for matrix in BLINDNESS.values():
        seen = [lab(np.clip(matrix @ linear(c), 0, 1)) for c in (PLAIN, REDUCED, FILL)]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 30
    lightness = sorted(lab(linear(c))[0] for c in (PLAIN, REDUCED, FILL, "white"))
    assert np.min(np.diff(lightness)) > 15
