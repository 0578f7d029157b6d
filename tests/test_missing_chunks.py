"""Missing cells in chunks and memory maps: as by the book, and as the same cells in memory."""

import itertools
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse
from gaps import KINDS, at_random, blocks, nothing
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import split_rows
from test_missing import check_iterates, problems, tree_problem
from trees import close

from mlrops import MLR, ConvergenceWarning, Hierarchy, fit_factor_model, select_ranks
from mlrops._common.convergence import UnboundedWarning
from mlrops.datasets import simulate_mlr
from mlrops.factor.estep.incomplete import IncompleteStep, ResidualIncompleteStep
from mlrops.factor.estep.incomplete_chunks import IncompleteChunks, incomplete_chunks_source
from mlrops.factor.estep.sources import open_source
from mlrops.factor.estep.streamed import ChunkedData

pd = pytest.importorskip("pandas")

GAPS = [kind for kind in KINDS if kind is not nothing]
NAMES = [f"gene {i}" for i in range(20)]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few samples, in the first pass and in later ones."""
    set_small_blocks(monkeypatch)


def set_small_blocks(patch):
    patch.setattr("mlrops.factor.estep.streamed.LEAST_ITEMS", 1)
    patch.setattr("mlrops.factor.estep.streamed.LEAST_WIDTH", 3)
    patch.setattr(IncompleteChunks, "_width", lambda self, layout: 5)
    for module in ("chunks", "incomplete_chunks"):
        patch.setattr(f"mlrops.factor.estep.{module}.FIRST_ITEMS", 1)
        patch.setattr(f"mlrops.factor.estep.{module}.FIRST_WIDTH", 7)


def memmap(Y, tmp_path, order="C"):
    disk = np.memmap(tmp_path / f"{order}{Y.dtype}", Y.dtype, "w+", shape=Y.shape, order=order)
    disk[:] = Y
    return disk


def frames(Y):
    """DataFrames of nullable columns, those of the second in another order."""
    parts = [pd.DataFrame(part, columns=NAMES) for part in np.split(Y, [17, 30])]
    parts = [part.convert_dtypes() if part.size else part for part in parts]
    return [parts[0], parts[1][NAMES[::-1]], *parts[2:]]


def masked(Y):
    return [np.ma.masked_array(np.nan_to_num(part, nan=99.0), np.isnan(part))
            for part in np.split(Y, [17, 30])]


FORMS = {
    "memmap": memmap,
    "memmap in Fortran order": lambda Y, tmp_path: memmap(Y, tmp_path, "F"),
    "list": lambda Y, _: split_rows(Y, 1),
    "rows": lambda Y, _: list(Y[:, None]),
    "function": lambda Y, _: lambda: iter(split_rows(Y, 2)),
    "frames": lambda Y, _: frames(Y),
    "masked": lambda Y, _: masked(Y),
    "big-endian": lambda Y, _: [Y.astype(Y.dtype.newbyteorder(">"))],
}


def both(p, data, center=True, weights=None):
    """The sources of a problem in memory and of its data in another form."""
    sources = [open_source(Y, p.h, center, "em", weights, None)[0] for Y in (p.Y, data)]
    assert isinstance(sources[1], IncompleteChunks)
    return sources


def steps_at(p, sources, share=1.0):
    """The E-steps of sources at the point of the problem, D times a share."""
    A = MLR.from_compact(p.h._in_tree_order(), p.ranks, p.h._gather(p.F).astype(float),
                         p.h._gather(share * p.D).astype(float))
    return [source.evaluate(A, p.h._gather(p.mean).astype(float)) for source in sources]


def same_steps(one, two, tol=1e-10):
    """Likelihood, update, gradient and preconditioned gradient."""
    assert type(one) is type(two)
    assert two.loglik == pytest.approx(one.loglik, rel=tol)
    images = [step.update(keep=True) for step in (one, two)]
    slopes = [step.gradient(*image) for step, image in zip((one, two), images, strict=True)]
    moves = [step.precondition(slopes[0][0], slopes[0][2]) for step in (one, two)]
    for pair in (images, slopes, moves):
        for x, y in zip(*pair, strict=True):
            close(y, x, tol)


def same_source(p, memory, stream, tol=1e-12):
    for name in ("n_samples", "mean_is_free"):
        assert getattr(memory, name) == getattr(stream, name)
    for name in ("mean", "variance", "shares"):
        close(getattr(stream, name), getattr(memory, name), tol)
    for features in ([0], [0, 1], [3, 8, 11], range(p.h.n)):
        features = np.array(features)
        assert stream.share_of_pairs(features) == pytest.approx(
            memory.share_of_pairs(features), rel=1e-12)
    assert stream.classes.number == memory.classes.number
    one, two = (source.start_data(10, None) for source in (memory, stream))
    close(two @ two.T, one @ one.T, tol)


# ---------------------------------------------------------------- iterates


@settings(max_examples=40)
@given(problem=problems(), weighted=st.booleans(), center=st.booleans(), seed=st.integers(0, 99))
def test_iterates_equal_dense_em(problem, weighted, center, seed):
    problem.Y = np.insert(problem.Y, [0, 2], np.nan, axis=0)
    problem.weights = np.insert(problem.weights, [0, 2], [7.0, 0.5])
    if np.isnan(problem.Y).all(axis=1).sum() == np.isnan(problem.Y).any(axis=1).sum():
        problem.Y[1, 0] = np.nan  # what is left would be complete
    if problem.h.n == 1:
        return
    problem.form = lambda Y: split_rows(Y, seed)
    with pytest.MonkeyPatch.context() as patch:
        set_small_blocks(patch)
        check_iterates(problem, 3, problem.weights if weighted else None, center)


@pytest.mark.parametrize("kind", GAPS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("center", [True, False], ids=["mean free", "mean fixed"])
def test_every_kind_of_missing_cells(kind, center, small_blocks):
    problem = tree_problem(kind)
    problem.form = lambda Y: split_rows(Y, 3)
    check_iterates(problem, 4, problem.weights, center)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [at_random, blocks], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [float, np.float32])
def test_every_form_gives_what_arrays_give(form, kind, dtype, tmp_path, small_blocks):
    p = tree_problem(kind, N=60, dtype=dtype)
    p.Y = np.insert(p.Y, [0, 7, 7], np.nan, axis=0)
    weights = np.insert(p.weights, [0, 7, 7], 5.0)
    weights[[11, 40]] = 0
    p.Y[11] = np.inf  # whatever stands in a row that does not count
    memory, stream = both(p, FORMS[form](p.Y, tmp_path), weights=weights)
    assert stream.dtype == (np.float64 if form == "frames" and dtype is float else dtype)
    same_source(p, memory, stream)
    for share, kind_of_step in ((1, IncompleteStep), (1e-9, ResidualIncompleteStep)):
        steps = steps_at(p, (memory, stream), share)
        assert type(steps[0]) is kind_of_step
        same_steps(*steps)


@pytest.mark.parametrize("ranks", [(0, 0, 0), (2, 0, 0), (0, 0, 3)])
@pytest.mark.parametrize("center", [True, False])
def test_levels_without_factors(ranks, center, small_blocks):
    p = tree_problem()
    p.ranks, p.F = ranks, p.rng.standard_normal((20, sum(ranks)))
    memory, stream = both(p, split_rows(p.Y, 4), center)
    if not center:
        p.mean = np.zeros(20)
    same_source(p, memory, stream)
    same_steps(*steps_at(p, (memory, stream)))


@pytest.mark.parametrize("weighted", [False, True])
def test_cuts_do_not_matter(weighted):
    """Bit for bit, through the first pass, blocks of an evaluation and sketches."""
    p = tree_problem(N=150)
    weights = np.where(np.arange(150) % 7, p.weights, 0) if weighted else None
    p.Y[[3, 50]] = np.nan
    seen = []
    for chunks in ([p.Y], list(p.Y[:, None]), split_rows(p.Y, 5), lambda: iter(split_rows(p.Y, 6))):
        _, source = both(p, chunks, weights=weights)
        (step,) = steps_at(p, [source])
        seen.append((source.mean, source.variance, source.start_data(10, 3), step.loglik,
                     *step.update()))
    for other in seen[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(seen[0], other, strict=True))


def test_a_feature_seen_in_one_chunk_only(small_blocks):
    p = tree_problem(N=60)
    p.Y[:, [2, 9]] = np.nan
    p.Y[31:34, 2], p.Y[55:, 9] = [1.0, 2.0, 5.0], np.arange(5.0)
    for cuts in ([30, 36], [32], []):
        memory, stream = both(p, np.split(p.Y, cuts))
        same_source(p, memory, stream)
        same_steps(*steps_at(p, (memory, stream)))


def test_classes_are_those_of_all_samples():
    """Features that no block tells apart are one class where no sample does."""
    p = tree_problem(blocks, N=60)
    _, stream = both(p, split_rows(p.Y, 0))
    order = p.h.permutation
    hidden = np.isnan(p.Y[:, order]).T
    leaf = p.h.labels(2)[order]
    of_feature = stream.classes.spread(np.arange(stream.classes.number))
    for i, j in itertools.combinations(range(20), 2):
        together = leaf[i] == leaf[j] and np.array_equal(hidden[i], hidden[j])
        assert (of_feature[i] == of_feature[j]) == together
    assert stream.classes.number < 20


def test_a_large_mean_costs_no_digits():
    p = tree_problem()
    far = tree_problem()
    far.Y, far.mean = p.Y + 2.0**26, p.mean + 2.0**26
    one, two = (both(q, split_rows(q.Y, 1))[1] for q in (p, far))
    close(two.variance, one.variance, 1e-7)
    assert np.abs(two.mean - 2.0**26 - one.mean).max() < 1e-7
    for x, y in zip(steps_at(p, [one])[0].update()[:2], steps_at(far, [two])[0].update()[:2],
                    strict=True):
        close(y, x, 1e-6)


# ---------------------------------------------------------------- fits


def fits(p, data, **options):
    """The fits to the data of a problem in memory and in another form."""
    options = {"missing": "em", "init": MLR.from_compact(p.h, p.ranks, p.F, p.D)} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [fit_factor_model(Y, p.ranks, p.h, **options) for Y in (p.Y, data)]


@pytest.mark.parametrize("form", ["memmap", "list", "function", "frames"])
@pytest.mark.parametrize("optimizer", ["scoring", "bfgs", "em"])
def test_fits_are_those_in_memory(form, optimizer, tmp_path):
    p = tree_problem(N=80)
    p.Y[[4, 60]] = np.nan
    memory, stream = fits(p, FORMS[form](p.Y, tmp_path), optimizer=optimizer, max_iter=12,
                          tol=0, gtol=0)
    grown = 1e3 if optimizer == "scoring" else 1  # its steps blow rounding up near the floor
    close(stream.loglik_trace, memory.loglik_trace, 1e-10 * grown)
    close(stream.covariance.toarray(), memory.covariance.toarray(), 1e-7 * grown)
    close(stream.mean, memory.mean, 1e-8 * grown)
    assert stream.n_samples == memory.n_samples == 78 and stream.mean_is_estimated
    assert stream.score(p.Y) == pytest.approx(stream.loglik, rel=1e-10)
    assert (stream.feature_names == tuple(NAMES)) == (form == "frames")


def test_default_starts_are_those_in_memory():
    p = tree_problem(N=80)
    memory, stream = fits(p, split_rows(p.Y, 1), init="svd", max_iter=3)
    close(stream.loglik_trace, memory.loglik_trace, 1e-9)


def test_a_start_from_a_sketch(monkeypatch):
    monkeypatch.setattr("mlrops.factor.estep.streamed.SKETCH_ITEMS", 0)
    h = Hierarchy.balanced(40, (1, 4))
    Y = simulate_mlr(h, (2, 1), 800, random_state=0).Y
    Y[at_random(Y.shape, np.random.default_rng(0), 0.2)] = np.nan
    source = open_source([Y], h, True, "em", None, None)[0]
    X = source.start_data(30, 0)
    assert X.shape == (40, 30)
    close(np.square(X).sum(axis=1) / source.n_samples, source.variance, 1e-12)
    filled = np.where(np.isnan(Y), 0, Y - np.nanmean(Y, axis=0))
    scaled = filled * np.sqrt(source.variance * 800 / np.square(filled).sum(axis=0))
    sketches = [source.start_data(30, seed) for seed in range(300)]
    close(sum(X @ X.T for X in sketches) / 300, scaled.T @ scaled, 0.08)
    memory, stream = (fit_factor_model(data, (2, 1), h, missing="em") for data in (Y, [Y]))
    assert stream.converged and stream.loglik == pytest.approx(memory.loglik, abs=1e-5)


def test_a_fit_that_ends_at_the_floor(small_blocks):
    """The residuals take over, and what ties features to one another is found in the stream."""
    p = tree_problem(N=60)
    p.Y[:, 5] = p.Y[:, 6] = np.nansum(p.Y[:, [3, 5]], axis=1)
    p.Y[at_random(p.Y.shape, p.rng, 0.1)] = np.nan
    found = []
    for data in (p.Y, split_rows(p.Y, 1)):
        with pytest.warns(UnboundedWarning, match="likelihood has no maximum") as told:
            fit = fit_factor_model(data, p.ranks, p.h, missing="em", variance_floor=1e-10,
                                   init=MLR.from_compact(p.h, p.ranks, p.F, p.D), max_iter=150,
                                   optimizer="bfgs", tol=1e-9)
        found.append((fit, [str(w.message) for w in told if w.category is UnboundedWarning]))
    (memory, one), (stream, two) = found
    assert one == two and np.array_equal(memory.boundary, stream.boundary)
    assert stream.loglik == pytest.approx(memory.loglik, rel=1e-6)


def test_ranks_are_chosen_from_chunks(tmp_path):
    h = Hierarchy.balanced(24, (1, 3))
    Y = simulate_mlr(h, (1, 1), 150, random_state=0).Y
    Y[at_random(Y.shape, np.random.default_rng(0), 0.15)] = np.nan
    Y[8] = np.nan
    options = dict(candidates=[(0, 1), (1, 0), (1, 1)], hierarchy=h, missing="em", criterion="bic")
    expected = select_ranks(Y, **options)
    for data in (memmap(Y, tmp_path), split_rows(Y, 1)):
        found = select_ranks(data, **options)
        assert found.ranks == expected.ranks == (1, 1)
        for a, b in zip(found.table, expected.table, strict=True):
            assert a.bic == pytest.approx(b.bic, rel=1e-6)
    found = select_ranks(memmap(Y, tmp_path), **options | {"criterion": "cv", "random_state": 0})
    expected = select_ranks(Y, **options | {"criterion": "cv", "random_state": 0})
    assert [a.cv_mean for a in found.table] == pytest.approx([b.cv_mean for b in expected.table])


def test_a_checkpoint_is_resumed(tmp_path):
    p, path = tree_problem(N=60), tmp_path / "fit"
    options = dict(missing="em", tol=0, gtol=0)
    chunks = split_rows(p.Y, 1)
    with pytest.warns(ConvergenceWarning):
        whole = fit_factor_model(chunks, p.ranks, p.h, max_iter=8, **options)
    with pytest.warns(ConvergenceWarning):
        fit_factor_model(chunks, p.ranks, p.h, max_iter=3, checkpoint=path, **options)
    with pytest.warns(ConvergenceWarning):
        rest = fit_factor_model(chunks, p.ranks, p.h, max_iter=8, checkpoint=path, resume=True,
                                **options)
    assert np.array_equal(rest.loglik_trace, whole.loglik_trace)
    other = p.Y.copy()
    other[np.unravel_index(np.flatnonzero(~np.isnan(other))[9], other.shape)] = np.nan
    with pytest.raises(ValueError, match="checkpoint of another fit .*data"):
        fit_factor_model([other], p.ranks, p.h, checkpoint=path, resume=True, **options)


# ---------------------------------------------------------------- without missing cells


def test_complete_chunks_are_what_they_are_without_the_option():
    p = tree_problem(nothing, N=60)
    weights = np.where(np.arange(60) % 5, p.weights, 0)
    for own in (None, weights):
        sources = [open_source(split_rows(p.Y, 1), p.h, True, missing, own, None)[0]
                   for missing in ("raise", "em")]
        assert all(type(source) is ChunkedData for source in sources)
        assert np.array_equal(sources[0].mean, sources[1].mean)
        assert np.array_equal(sources[0].sums_of_squares, sources[1].sums_of_squares)
    with_empty = np.insert(p.Y, [0, 30], np.nan, axis=0)
    source, _, _ = open_source(split_rows(with_empty, 1), p.h, True, "em", None, None)
    assert type(source) is ChunkedData and source.n_samples == 60
    plain, _, _ = open_source([p.Y], p.h, True, "raise", None, None)
    for one, two in zip(*(s.update() for s in steps_at(p, (source, plain))), strict=True):
        assert np.array_equal(one, two)


def test_compression_needs_complete_rows():
    p = tree_problem(nothing, N=60)
    with_empty = np.insert(p.Y, [0, 30], np.nan, axis=0)
    once = iter(split_rows(with_empty, 1))  # one pass is enough
    source, _, _ = open_source(once, p.h, True, "em", None, True)
    assert source.n_samples == 60 and source.X.shape == (20, 20)
    plain, _, _ = open_source([p.Y], p.h, True, "raise", None, True)
    close(source.X @ source.X.T, plain.X @ plain.X.T, 1e-12)
    p.Y[33, 4] = np.nan
    with pytest.raises(ValueError, match="compress=True needs complete data: patterns of missing"
                                         " cells differ; got NaN in chunk 1, row 3, feature 4$"):
        open_source(np.split(p.Y, [30]), p.h, True, "em", None, True)


# ---------------------------------------------------------------- refusals


def spoiled(at, value, N=60):
    Y = tree_problem(N=N).Y
    Y[at] = value
    return Y


@pytest.mark.parametrize("Y, message", [
    (spoiled((slice(None), 4), np.nan), r"1 column with fewer than 2 observed cells \({}\)"),
    (spoiled((slice(1, None), 4), np.nan), r"1 column with fewer than 2 observed cells \({}\)"),
    (spoiled((slice(None), 4), 2.5), r"1 feature that is constant where observed \({}\)"),
    (spoiled((33, 4), np.inf), r"infinity in chunk 1, row 3, feature {}$"),
    (spoiled((33, 4), -np.inf), r"infinity in chunk 1, row 3, feature {}$"),
    (np.full((60, 20), np.nan), "at least 2 samples"),
])
def test_cells_that_cannot_be_fitted_are_named(Y, message):
    h = tree_problem().h
    with pytest.raises(ValueError, match=message.format(4)):
        fit_factor_model(np.split(Y, [30]), (1, 1, 1), h, missing="em")
    parts = [pd.DataFrame(part, columns=NAMES) for part in np.split(Y, [30])]
    with pytest.raises(ValueError, match=message.format("gene 4")):
        fit_factor_model(parts, (1, 1, 1), h, missing="em")


def test_weights_of_another_number_of_rows():
    p = tree_problem()
    for count in (39, 41):
        with pytest.raises(ValueError, match=f"40 samples, got {count}"):
            fit_factor_model([p.Y], p.ranks, p.h, missing="em", sample_weight=np.ones(count))


def test_one_pass_is_not_enough():
    p = tree_problem()
    with pytest.raises(TypeError, match="pass a function that makes a new one"):
        fit_factor_model(iter([p.Y]), p.ranks, p.h, missing="em")


@pytest.mark.parametrize("change, message", [
    (lambda Y: np.append(Y, Y[:1], axis=0), "more than 60 rows"),
    (lambda Y: Y[:-1], "59 rows after 60"),
    (lambda Y: np.where(np.arange(60)[:, None] == 9, np.nan, Y),
     "59 rows with an observed cell after 60|other cells are missing"),
    (lambda Y: np.where((np.arange(60) == 9)[:, None] & (np.arange(20) == 4), np.nan, Y),
     r"other cells are missing among 3 features \(2, 4, 6\)"),
    (lambda Y: np.where((np.arange(60) == 9)[:, None] & (np.arange(20) == 4),
                        np.nan, np.roll(Y, 1, axis=1)), "other cells are missing"),
])
def test_data_that_change_between_passes(change, message):
    p = tree_problem(blocks, N=60)
    p.Y[9] = np.arange(20)
    chunks = [p.Y]
    source = incomplete_chunks_source(chunks, p.h, True)
    steps_at(p, [source])
    chunks[:] = np.split(change(p.Y), [20])
    with pytest.raises(RuntimeError, match=f"changed between passes: ({message})"):
        steps_at(p, [source])


def test_cells_that_change_within_or_with_their_class():
    """A feature whose others say what it should show, and one that has no others."""
    p = tree_problem(blocks, N=60)
    chunks = [p.Y]
    source = incomplete_chunks_source(chunks, p.h, True)
    classes, order = source.classes, p.h.permutation
    several, single = (order[classes.first[classes.sizes == size][0]]
                       for size in (classes.sizes.max(), 1))
    hidden = np.isnan(p.Y)
    moved = p.Y.copy()  # as many cells as before
    gone, there = np.flatnonzero(~hidden[:, several])[0], np.flatnonzero(hidden[:, several])[0]
    moved[[gone, there], several] = np.nan, 1.0
    fewer = p.Y.copy()
    fewer[np.flatnonzero(~hidden[:, single])[0], single] = np.nan
    for other, feature in ((moved, several), (fewer, single)):
        chunks[:] = [other]
        with pytest.raises(RuntimeError, match=rf"missing among \d+ features? \(.*\b{feature}\b"):
            steps_at(p, [source])


def test_rows_that_were_empty_in_the_first_pass_are_no_room_for_others(small_blocks):
    p = tree_problem(N=60)
    p.Y[[7, 30]] = np.nan
    chunks = [p.Y]
    source = incomplete_chunks_source(chunks, p.h, True)
    chunks[:] = [np.nan_to_num(p.Y)]
    with pytest.raises(RuntimeError, match="changed between passes: (more than 58 rows|other cel)"):
        steps_at(p, [source])


# ---------------------------------------------------------------- passes and memory


def test_one_pass_an_evaluation():
    p, passes = tree_problem(N=60), []

    def chunks():
        passes.append(None)
        return iter(split_rows(p.Y, 1))

    source = incomplete_chunks_source(chunks, p.h, True)
    assert len(passes) == 1
    for share in (1.0, 1e-9):
        (step,) = steps_at(p, [source], share)
        step.gradient(*step.update())
    assert len(passes) == 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples():
    n, ranks = 4000, (4, 2)
    h = Hierarchy.balanced(n, [1, 40])
    rng = np.random.default_rng(0)
    block = rng.standard_normal((200, n))
    block[rng.random((200, n)) < 0.2] = np.nan
    F, D = rng.standard_normal((n, 6)), np.ones(n)

    def peak(count):
        tracemalloc.start()
        source = incomplete_chunks_source(lambda: (block.copy() for _ in range(count)), h, True)
        source.start_data(20, 0)
        source.share_of_pairs(np.arange(5))
        source.evaluate(MLR.from_compact(h, ranks, F, D), source.mean).update()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)
    few, many = peak(2), peak(10)
    assert many < 1.05 * few < 0.5 * 8 * n * 2000  # of all samples together


def test_ranks_of_sparse_data_which_have_no_missing_cells():
    Y = np.random.default_rng(0).poisson(1.0, (60, 6)) * 1.0
    options = dict(candidates=[0], criterion="bic")
    found = select_ranks(scipy.sparse.coo_array(Y), missing="em", **options)
    assert found.table[0].bic == pytest.approx(select_ranks(Y, **options).table[0].bic)
