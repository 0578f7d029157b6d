"""Pictures of trees, levels and nonzeros, by the rectangles, cells and words they hold."""

import matplotlib
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import splu

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from mlrops import MLR, GeneralMLR, Hierarchy, fit_mlr  # noqa: E402
from mlrops.plotting import plot_hierarchy, plot_levels, plot_sparsity  # noqa: E402
from mlrops.plotting.sparsity import _eliminated  # noqa: E402

SECTOR = ["tech", "bank", "tech", "bank", "tech", "tech"]
INDUSTRY = ["chips", "retail", "web", "retail", "chips", "chips"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def tree():
    return Hierarchy.from_labels(SECTOR, INDUSTRY)


def random_mlr(h, ranks, seed=0):
    rng = np.random.default_rng(seed)
    return MLR(h, [rng.standard_normal((h.n, r)) for r in ranks], rng.uniform(1, 3, h.n))


def permuted(n, counts, seed=0):
    order = np.random.default_rng(seed).permutation(n)
    return Hierarchy(order, Hierarchy.balanced(n, counts).boundaries)


def boxes(collection):
    return [path.get_extents().extents.tolist() for path in collection.get_paths()]


# -------------------------------------------------------------------- trees


def test_an_icicle_has_a_row_a_level_and_a_bar_a_group(tree):
    ax = plot_hierarchy(tree, names=list("uvwxyz"))
    assert len(ax.collections) == 3 and ax.get_ylim() == (3, 0) and ax.get_xlim() == (0, 6)
    for level, bars in enumerate(ax.collections):
        ends = [(x0, x1) for x0, _, x1, _ in boxes(bars)]
        offsets = tree.boundaries[level].tolist()
        assert ends == list(zip(offsets[:-1], offsets[1:], strict=True))
        assert all(level < y0 < y1 < level + 1 for _, y0, _, y1 in boxes(bars))
    named = {text.get_text(): text.get_position() for text in ax.texts}
    assert named == {"all": (3, 0.5), "bank": (1, 1.5), "tech": (4, 1.5), "retail": (1, 2.5),
                     "chips": (3.5, 2.5), "web": (5.5, 2.5)}
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "level 0\n1 group", "level 1\n2 groups", "level 2\n3 groups"]
    assert [t.get_text() for t in ax.get_xticklabels()] == list("vxuyzw")


def test_names_are_written_only_where_they_fit(tree):
    figure, ax = plt.subplots(figsize=(1.3, 1.1))
    plot_hierarchy(tree, ax, names=["a long name"] * 6)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    bars = [[np.sort(ax.transData.transform(path.get_extents().get_points()), axis=0)
             for path in c.get_paths()] for c in ax.collections]
    assert 0 < len(ax.texts) < 6
    for text in ax.texts:
        low, high = text.get_window_extent(renderer).get_points()
        assert any(np.all(corner <= low) and np.all(high <= other)
                   for corner, other in bars[int(text.get_position()[1])])


def test_groups_without_labels_are_numbered():
    ax = plot_hierarchy(Hierarchy.balanced(8, [1, 2]))
    assert [text.get_text() for text in ax.texts] == ["all", "0", "1"]
    assert ax.get_xlabel() == "8 features, tree order"


def test_a_million_features_are_few_rectangles():
    h = Hierarchy.balanced(10**6, [1, 10, 10**6])
    for kind in ("icicle", "blocks"):
        ax = plot_hierarchy(h, kind=kind)
        assert [len(c.get_paths()) for c in ax.collections] == [1, 10, 2000]
        assert boxes(ax.collections[1])[3][0::2] == [300000, 400000]


def test_blocks_nest_on_the_diagonal(tree):
    ax = plot_hierarchy(random_mlr(tree, (1, 1, 1)), kind="blocks", names=list("uvwxyz"))
    for level, blocks in enumerate(ax.collections):
        offsets = tree.boundaries[level].tolist()
        assert boxes(blocks) == [[a, a, b, b]
                                 for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    named = {text.get_text(): text.xy if hasattr(text, "xy") else text.get_position()
             for text in ax.texts}
    # bank is covered by retail, its only child.
    assert named == {"all": (6, 0), "tech": (6, 2), "retail": (1, 1), "chips": (3.5, 3.5),
                     "web": (5.5, 5.5)}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "level 0: 1 group", "level 1: 2 groups", "level 2: 3 groups"]
    assert [t.get_text() for t in ax.get_yticklabels()] == list("vxuyzw")


def test_hierarchies_are_checked(tree):
    with pytest.raises(TypeError, match="expects a Hierarchy or an operator on one, got ndarray"):
        plot_hierarchy(np.eye(3))
    with pytest.raises(ValueError, match="kind must be 'icicle' or 'blocks', got 'tree'"):
        plot_hierarchy(tree, kind="tree")
    with pytest.raises(ValueError, match="names must hold 6, got 2"):
        plot_hierarchy(tree, names="ab")
    assert not plt.get_fignums()


# -------------------------------------------------------------------- levels


def level_of(matrix, level):
    """Magnitudes of one level in tree order, and which entries it has."""
    rows, cols = (matrix.rows, matrix.cols) if hasattr(matrix, "rows") else (
        (matrix.hierarchy,) * 2)
    B, C = (matrix.B, matrix.C) if hasattr(matrix, "B") else (matrix.F,) * 2
    cut = slice(sum(matrix.ranks[:level]), sum(matrix.ranks[: level + 1]))
    mask = rows.labels(level)[:, None] == cols.labels(level)
    order = np.ix_(rows.permutation, cols.permutation)
    return np.abs((B[:, cut] @ C[:, cut].T) * mask)[order], mask[order]


def general():
    rng = np.random.default_rng(0)
    rows = Hierarchy(rng.permutation(9), [[0, 9], [0, 3, 9], [0, 1, 3, 9]])
    cols = Hierarchy(rng.permutation(7), [[0, 7], [0, 5, 7], [0, 2, 5, 7]])
    return GeneralMLR(rows, cols, *([rng.standard_normal((h.n, r)) for r in (2, 0, 1)]
                                    for h in (rows, cols)))


@pytest.mark.slow
@pytest.mark.parametrize("matrix", [
    random_mlr(permuted(12, [1, 3, 6]), (2, 0, 1)),
    random_mlr(permuted(12, [1, 3, 6]), (2, 0, 1)).inv(), general()],
    ids=["MLR", "MLRInverse", "GeneralMLR"])
def test_levels_show_their_entries_in_one_scale(matrix):
    axes = plot_levels(matrix)
    largest = 0
    for level, rank in enumerate(matrix.ranks):
        assert axes[level].get_title().endswith(f"rank {rank}")
        assert len(axes[level].images) == (rank > 0)
        if rank:
            expected, mask = level_of(matrix, level)
            drawn = axes[level].images[0].get_array()
            np.testing.assert_array_equal(~np.ma.getmaskarray(drawn), mask)
            np.testing.assert_allclose(drawn.filled(0), expected, atol=1e-7)
            largest = max(largest, expected.max())
    images = [image for ax in axes for image in ax.images]
    norms = {id(image.norm) for image in images}
    if not isinstance(matrix, GeneralMLR):
        squares = axes[-1].collections[0]
        D = matrix.D[matrix.hierarchy.permutation]
        np.testing.assert_allclose(squares.get_array(), D)
        assert boxes(squares) == [[i, i, i + 1, i + 1] for i in range(12)]
        norms.add(id(squares.norm))
        largest = max(largest, D.max())
    assert len(norms) == 1 and images[0].norm.vmax == pytest.approx(largest)
    bars = set(axes[0].figure.axes) - set(axes)
    assert len(bars) == 1 and bars.pop().get_ylabel() == "magnitude"


def test_large_levels_are_root_mean_squares_of_their_own_entries():
    h = Hierarchy(np.random.default_rng(0).permutation(450),
                  [[0, 450], [0, 101, 450], [0, 50, 101, 449, 450]])
    A = random_mlr(h, (2, 1, 2))
    axes = plot_levels(A, vmax=2.0)
    edges = np.arange(201) * 450 // 200
    for level in range(3):
        squares, count = level_of(A, level)
        squares, count = (np.add.reduceat(np.add.reduceat(x.astype(float), edges[:-1], 0),
                                          edges[:-1], 1) for x in (squares**2, count))
        drawn = axes[level].images[0].get_array()
        np.testing.assert_array_equal(~np.ma.getmaskarray(drawn), count > 0)
        expected = np.sqrt(squares / np.maximum(count, 1))
        np.testing.assert_allclose(drawn.filled(0), expected, atol=1e-7)
    assert axes[0].images[0].norm.vmax == 2 and len(axes[3].collections[0].get_paths()) == 100


def test_levels_of_results_and_their_refusals():
    A = random_mlr(permuted(12, [1, 3]), (1, 1))
    fit = fit_mlr(A.toarray(), [1, 1, 1], Hierarchy(A.hierarchy.permutation,
                                                    [*A.hierarchy.boundaries, range(13)]))
    assert len(plot_levels(fit)) == 3
    with pytest.raises(TypeError, match="expects an MLR, MLRInverse or GeneralMLR, or a result"
                                        " that holds one, got ndarray"):
        plot_levels(A.toarray())
    figure, given = plt.subplots(1, 2)
    with pytest.raises(ValueError, match="one for each of 3 panels, got 2"):
        plot_levels(A, given)
    with pytest.raises(TypeError, match="axes must hold matplotlib Axes, got int"):
        plot_levels(A, [1, 2, 3])
    with pytest.raises(ValueError, match="kind must be 'entries' or 'blocks', got 'spy'"):
        plot_levels(A, kind="spy")


# -------------------------------------------------------------------- nonzeros


def cells(ax):
    drawn = ax.images[0].get_array()
    return np.where(np.ma.getmaskarray(drawn), -1, drawn.filled(-1))


def spread(A, F):
    """F spread out, features in tree order, with the level of every column."""
    h, columns, levels, start = A.hierarchy, [], [], 0
    for level, r in enumerate(A.ranks):
        for group in range(h.group_counts[level]):
            inside = h.labels(level) == group
            columns.append(F[:, start : start + r] * inside[:, None])
            levels += [level] * r
        start += r
    return np.concatenate(columns, axis=1)[h.permutation], np.array(levels)


@pytest.mark.parametrize("what", ["F", "U"])
def test_factors_are_spread_out_with_a_colour_a_level(what):
    A = random_mlr(permuted(20, [1, 3, 6]), (1, 0, 2))
    S, levels = spread(A, A.F if what == "F" else A.inv().U)
    ax = plot_sparsity(A, what)
    np.testing.assert_array_equal(cells(ax), np.where(S != 0, levels, -1))
    assert ax.get_title() == f"{what}, 20 × 13\n60 nonzeros"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["level 0", "level 2"]
    if what == "U":
        inverse = plot_sparsity(A.inv())
        np.testing.assert_array_equal(cells(inverse), cells(ax))
        assert inverse.get_title() == ax.get_title()
        # It is the inverse that is drawn: 1/D - U Uᵀ with U of these nonzeros.
        order = A.hierarchy.permutation
        np.testing.assert_allclose(np.diag(1 / A.D[order]) - S @ S.T,
                                   np.linalg.inv(A.toarray())[np.ix_(order, order)], atol=1e-12)


def test_zeros_within_the_factors_are_not_counted():
    h = permuted(20, [1, 3])
    factors = [np.ones((20, 1)), np.ones((20, 1))]
    factors[0][3] = factors[1][7] = factors[1][8] = 0
    A = MLR(h, factors, np.ones(20))
    assert plot_sparsity(A).get_title().endswith("37 nonzeros")
    H, _ = spread(A, A.inv().U)
    np.testing.assert_array_equal(cells(plot_sparsity(A, "U")) >= 0, H != 0)
    with pytest.warns(DeprecationWarning, match="called what='U'"):
        plot_sparsity(A, "H")
    assert np.count_nonzero(H) != 37


def test_the_expanded_matrix_is_bordered():
    A = random_mlr(permuted(10, [1, 2]), (1, 2))
    S, levels = spread(A, A.F)
    ax = plot_sparsity(A, "expanded")
    F = np.where(S != 0, levels + 1, -1)
    unit = np.where(np.eye(15) > 0, 0, -1)
    expected = unit.copy()
    expected[:10, 10:], expected[10:, :10] = F, F.T
    np.testing.assert_array_equal(cells(ax), expected)
    assert ax.get_title() == f"expanded matrix, 15 × 15\n{(expected >= 0).sum()} nonzeros"


def test_the_cholesky_factor_has_no_fill_and_is_the_true_one():
    A = random_mlr(permuted(30, [1, 3, 6]), (2, 1, 2))
    L, d, order = A.expanded_cholesky()
    E = A.expanded_matrix().toarray()[np.ix_(order, order)]
    np.testing.assert_allclose((L * d) @ L.T.toarray(), E, atol=1e-10)
    L, n = L.toarray(), 30
    kind = np.where(L == 0, -1, 2)
    S = E[n:, :n]
    inside = np.zeros_like(kind, bool)
    inside[n:, n:] = S @ S.T != 0
    kind[(L != 0) & inside] = 1
    kind[(L != 0) & (E != 0)] = 0
    ax = plot_sparsity(A, "cholesky")
    np.testing.assert_array_equal(cells(ax), kind)
    assert ax.get_title() == (f"Cholesky, tree order: {(kind >= 0).sum()} nonzeros\n"
                              f"{(kind == 1).sum()} of FᵀD⁻¹F, fill 0")


@pytest.mark.parametrize("order, spec", [("natural", "NATURAL"), ("mmd", "MMD_AT_PLUS_A")])
def test_other_orders_count_what_superlu_counts(order, spec):
    A = random_mlr(Hierarchy.balanced(60, [1, 3, 12]), (2, 1, 2))
    lu = splu(A.expanded_matrix(), permc_spec=spec, diag_pivot_thresh=0.0,
              options={"SymmetricMode": True})
    title = plot_sparsity(A, "cholesky", order=order).get_title()
    assert f": {np.count_nonzero(lu.L.data)} nonzeros" in title
    ax = plot_sparsity(A, "cholesky", order=order)
    fill = (cells(ax) == 2).sum()
    assert fill > 0 and title.endswith(f"fill {fill}")


@pytest.mark.parametrize("seed", range(3))
def test_elimination_by_structure_is_that_of_the_matrix(seed):
    rng = np.random.default_rng(seed)
    A = rng.random((25, 25)) * (rng.random((25, 25)) < 0.06)
    A = A @ A.T + np.eye(25)
    L = np.linalg.cholesky(A)
    pattern = np.zeros((25, 25), bool)
    pattern[_eliminated(sp.csr_array(A))] = True
    np.testing.assert_array_equal(pattern, np.abs(L) > 1e-14)


def test_large_pictures_have_coarse_cells_and_exact_counts():
    A = random_mlr(Hierarchy.balanced(1000, [1, 10, 50]), (1, 1, 1))
    ax = plot_sparsity(A, "expanded")
    assert cells(ax).shape == (240, 240)
    assert ax.get_title().endswith(f"\n{2 * 3000 + 1061:,} nonzeros")
    assert np.all(np.diag(cells(ax)) >= 0)


def test_sparsity_is_checked():
    A = random_mlr(permuted(10, [1, 2]), (1, 1))
    with pytest.raises(ValueError, match="what must be 'F', 'U', 'expanded' or 'cholesky'"):
        plot_sparsity(A, "L")
    with pytest.raises(ValueError, match="order must be .*, got 'amd'"):
        plot_sparsity(A, "cholesky", order="amd")
    with pytest.raises(ValueError, match="order='mmd' is for what='cholesky', got what='F'"):
        plot_sparsity(A, order="mmd")
    with pytest.raises(ValueError, match=r"is drawn of an MLR, got an MLRInverse"):
        plot_sparsity(A.inv(), "expanded")
    with pytest.raises(TypeError, match="expects an MLR or MLRInverse, or a result"):
        plot_sparsity(sp.eye_array(3))
