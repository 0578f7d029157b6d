"""EM on row chunks and memory maps: same iterates as in memory, one pass, bounded memory."""

import json
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import (
    bitwise,
    check_gradient,
    dense_data,
    run,
    same_iterates,
    some_point,
    split_rows,
    step_at,
    tree,
    trees_with_ranks,
)
from test_kernels import in_a_new_process
from trees import PATHS, close, computing

from mlrops import Hierarchy, fit_factor_model
from mlrops._common.disk import on_disk
from mlrops.factor.estep.chunks import Chunks, compress_chunks
from mlrops.factor.estep.streamed import chunked_source
from mlrops.factor.point import Point
from mlrops.factor.start import start

RANKS = (2, 0, 3)


def samples(N=100, n=24, seed=0, offset=5.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, n)) @ rng.standard_normal((n, n)) + offset


def random_weights(N, seed=1):
    w = np.random.default_rng(seed).uniform(0, 2, N)
    w[::4] = 0
    return w * N / w.sum()


# ---------------------------------------------------------------- iterates


@pytest.mark.parametrize("N", [3, 60], ids=["N < n", "N > n"])
@settings(max_examples=12)
@given(case=trees_with_ranks(), center=st.booleans(), weighted=st.booleans(),
       seed=st.integers(0, 1000))
def test_iterates_equal_those_in_memory(N, case, center, weighted, seed):
    h, ranks = case
    Y = samples(N, h.n, seed, offset=2.0)
    weights = random_weights(N, seed) if weighted else None
    expected = run(dense_data(Y, h, center, weights), h, ranks)
    for chunks in (split_rows(Y, seed), [Y]):
        same_iterates(run(chunked_source(chunks, h, center, weights), h, ranks), expected)


@pytest.mark.parametrize("path", PATHS)
def test_iterates_whichever_way_they_are_computed(path):
    rng = np.random.default_rng(2)
    h = Hierarchy(rng.permutation(60), [[0, 60], [0, 20, 60], [0, 5, 6, 20, 21, 33, 34, 35, 60]])
    Y = samples(90, 60)
    expected = run(dense_data(Y, h), h, (1, 2, 3))
    with computing(path):
        source = chunked_source(split_rows(Y, 1), h, True)
        same_iterates(run(source, h, (1, 2, 3)), expected)
        check_gradient(source, dense_data(Y, h), h, (1, 2, 3))


def test_many_blocks(monkeypatch):
    h, Y = tree(), samples(200)
    expected = run(dense_data(Y, h), h, RANKS)
    monkeypatch.setattr("mlrops.factor.estep.streamed.LEAST_ITEMS", 1)
    monkeypatch.setattr("mlrops.factor.estep.streamed.LEAST_WIDTH", 3)
    monkeypatch.setattr("mlrops.factor.estep.chunks.FIRST_ITEMS", 1)
    monkeypatch.setattr("mlrops.factor.estep.chunks.FIRST_WIDTH", 7)
    same_iterates(run(chunked_source(split_rows(Y, 1), h, True), h, RANKS), expected)
    weights = random_weights(200)
    same_iterates(run(chunked_source(split_rows(Y, 1), h, True, weights), h, RANKS),
                  run(dense_data(Y, h, True, weights), h, RANKS))


@pytest.mark.parametrize("weights", [None, random_weights(150)], ids=["equal", "weighted"])
def test_chunks_do_not_matter(weights, monkeypatch):
    monkeypatch.setattr("mlrops.factor.estep.streamed.SKETCH_ITEMS", 0)
    h, Y = tree(), samples(150)
    one = chunked_source([Y], h, True, weights)
    for chunks in (list(Y[:, None, :]), split_rows(Y, 3), lambda: iter(split_rows(Y, 4))):
        other = chunked_source(chunks, h, True, weights)
        close(other.mean, one.mean, 1e-12)
        close(other.sums_of_squares, one.sums_of_squares, 1e-12)
        close(other.start_data(30, 7), one.start_data(30, 7), 1e-12)
        assert bitwise(run(other, h, RANKS), run(one, h, RANKS))


def test_samples_of_weight_zero_do_not_count():
    h, Y = tree(), samples(80)
    weights = random_weights(80)
    dirty = Y.copy()
    dirty[weights == 0] = np.nan
    one = chunked_source(split_rows(dirty, 5), h, True, weights)
    kept = weights > 0
    two = chunked_source([Y[kept]], h, True, weights[kept])
    assert one.n_samples == two.n_samples == kept.sum() and one.weight == pytest.approx(80)
    assert bitwise(run(one, h, RANKS), run(two, h, RANKS))


def test_weights_are_multiplicities():
    h, Y = tree(), samples(50)
    times = np.random.default_rng(0).integers(1, 4, 50)
    expected = run(dense_data(np.repeat(Y, times, axis=0), h), h, RANKS)
    source = chunked_source(split_rows(Y, 2), h, True, weights=times)
    assert source.n_samples == 50 and source.weight == times.sum()
    same_iterates(run(source, h, RANKS), expected)


@pytest.mark.slow
def test_float32():
    h, Y = tree(), samples().astype(np.float32)
    source = chunked_source(split_rows(Y, 1), h, True)
    assert source.dtype == np.float32 and source.mean.dtype == np.float64
    point = some_point(h, RANKS, source)
    wide = type(point)(*(x.astype(float) for x in point))
    expected = run(dense_data(Y.astype(float), h), h, RANKS, point=wide)
    same_iterates(run(source, h, RANKS, point=point), expected, 1e-4)
    assert chunked_source([Y, samples()], h, True).dtype == np.float64
    assert chunked_source([samples()], h, True, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("change", [
    np.asfortranarray, lambda Y: Y.astype(">f8"), lambda Y: np.repeat(Y, 2, axis=0)[::2],
    lambda Y: np.repeat(Y, 3, axis=1)[:, 1::3], lambda Y: Y.tolist(), lambda Y: Y[:, ::-1][:, ::-1],
], ids=["Fortran", "big-endian", "rows apart", "columns apart", "lists", "turned"])
def test_layouts(change):
    h, Y = tree(), samples()
    expected = run(chunked_source([Y[:30], Y[30:]], h, True), h, RANKS)
    assert bitwise(run(chunked_source([change(Y[:30]), change(Y[30:])], h, True), h, RANKS),
                   expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, bool, np.float16])
def test_dtypes(dtype):
    h = tree()
    Y = (np.random.default_rng(0).integers(0, 3, (60, 24)) % (2 if dtype is bool else 3))
    source = chunked_source([Y.astype(dtype)], h, True)
    assert source.dtype == (np.float32 if dtype is np.float16 else np.float64)
    same_iterates(run(source, h, RANKS), run(dense_data(Y.astype(source.dtype), h), h, RANKS),
                  1e-4 if dtype is np.float16 else 1e-10)


def test_moments_of_far_away_data():
    h, Y = tree(), np.random.default_rng(0).standard_normal((1000, 24)) + 1e6
    source = chunked_source(split_rows(Y, 1), h, True)
    shifted = Y - 1e6
    close(source.mean, Y.mean(axis=0)[h.permutation], 1e-15)
    close(source.variance, shifted.var(axis=0)[h.permutation], 1e-9)
    narrow = chunked_source(split_rows(Y.astype(np.float32), 1), h, True, dtype=np.float64)
    expected = Y.astype(np.float32).astype(float).var(axis=0)
    close(narrow.variance, expected[h.permutation], 1e-9)
    # A first block far from the rest, and weights.
    Y[:70] -= 1e6
    w = random_weights(1000)
    source = chunked_source([Y], h, True, w)
    mean = w @ Y / w.sum()
    close(source.mean, mean[h.permutation], 1e-14)
    close(source.sums_of_squares, (w @ np.square(Y - mean))[h.permutation], 1e-12)


# ---------------------------------------------------------------- derivatives


@settings(max_examples=15)
@given(case=trees_with_ranks(), weighted=st.booleans(), seed=st.integers(0, 1000))
def test_gradient(case, weighted, seed):
    h, ranks = case
    Y = samples(30, h.n, seed, offset=1.0)
    weights = random_weights(30, seed) if weighted else None
    check_gradient(chunked_source(split_rows(Y, seed), h, True, weights),
                   dense_data(Y, h, True, weights), h, ranks)


def test_em_goes_along_the_preconditioned_gradient():
    h, Y = tree(), samples()
    for ranks in (RANKS, (0, 0, 0)):
        source = chunked_source([Y], h, True)
        point = some_point(h, ranks, source)
        step, image = step_at(source, h, ranks, point)
        dF, _, dmean = step.gradient(*image)
        change, shift = step.precondition(dF, dmean)
        assert np.allclose(change, image.F - point.F, rtol=1e-9, atol=1e-9) and shift is dmean
        narrow, _ = step.precondition(dF.astype(np.float32), dmean)
        assert narrow.dtype == np.float32


# ---------------------------------------------------------------- passes and memory


class Counted:
    """Chunks that count how often they are gone through, and how far."""

    def __init__(self, chunks):
        self.chunks, self.passes, self.given = chunks, 0, 0

    def __iter__(self):
        self.passes += 1
        for chunk in self.chunks:
            self.given += 1
            yield chunk


def test_one_pass_an_iteration():
    h, chunks = tree(), Counted(np.split(samples(100), 5))
    source = chunked_source(chunks, h, True)
    assert (chunks.passes, chunks.given) == (1, 5)
    run(source, h, RANKS, updates=4)
    assert (chunks.passes, chunks.given) == (5, 25)
    source.start_data(30, 0)
    assert (chunks.passes, chunks.given) == (6, 30)


def peak(task):
    tracemalloc.start()
    task()
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples():
    n, R = 10_000, 40
    h = Hierarchy.balanced(n, [1, 10])
    block = np.random.default_rng(0).standard_normal((200, n))
    rows = lambda count: lambda: (block.copy() for _ in range(count))  # noqa: E731

    def fit(count):
        source = chunked_source(rows(count), h, True)
        source.start_data(R, 0)
        run(source, h, (20, 20), updates=2)

    fit(1)
    few, many = peak(lambda: fit(2)), peak(lambda: fit(10))
    assert many < 1.02 * few
    # Factors of two points, V, S and K, a block of 2 R samples, scratch of 32 MB twice.
    assert many < 12 * 8 * n * R + 64e6 < 0.8 * 8 * n * 2000


@pytest.mark.slow
def test_a_file_ten_times_as_large_as_the_cap(tmp_path):
    """RLIMIT_DATA bounds all private memory, which the mapped file is not part of."""
    pytest.importorskip("resource")
    out = in_a_new_process(f"""
        import ctypes, json, resource, sys, warnings
        import numpy as np
        from mlrops import Hierarchy, fit_factor_model

        warnings.simplefilter("ignore")

        def fit(Y, n, updates):
            return fit_factor_model(Y, (2, 2), Hierarchy.balanced(n, [1, 20]), max_iter=updates,
                                    tol=0).loglik_trace.tolist()

        def data_size():
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) * 1024 for line in status if "VmData" in line)

        rng = np.random.default_rng(0)
        fit([rng.standard_normal((50, 4000)).astype(np.float32)], 4000, 4)  # compiles

        N, n, cap = 20_000, 5_000, 40_000_000
        Y = np.memmap({str(tmp_path / "Y.dat")!r}, np.float32, "w+", shape=(N, n))
        factor = rng.standard_normal((40, n)).astype(np.float32)
        some = rng.standard_normal((500, 40), np.float32) @ factor
        some += rng.standard_normal((500, n), np.float32)
        for a in range(0, N, 500):
            np.multiply(some, rng.uniform(0.5, 1.5, (500, 1)), out=Y[a : a + 500],
                        casting="same_kind")
        Y.flush()
        Y = np.memmap({str(tmp_path / "Y.dat")!r}, np.float32, "r", shape=(N, n))
        fit(Y, n, 1)  # BLAS reserves buffers of its own for each thread that first calls it
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # what is free already must not count as room
            room = data_size() + cap
            resource.setrlimit(resource.RLIMIT_DATA, (room, room))
            try:
                np.ones(cap // 8 + 1_000_000)
                refused = False
            except MemoryError:
                refused = True
        else:
            refused = None
        trace = fit(Y, n, 3)
        print(json.dumps({{"bytes": Y.nbytes, "cap": cap, "refused": refused, "trace": trace}}))
    """)
    found = json.loads(out)
    assert found["bytes"] >= 10 * found["cap"]
    if found["refused"] is None:
        pytest.skip("private memory can be capped on Linux only")
    assert found["refused"]
    trace = found["trace"]
    assert len(trace) == 4 and (np.diff(trace) > 0).all()


def test_memory_maps(tmp_path, monkeypatch):
    h, Y = tree(), samples()
    expected = run(chunked_source([Y], h, True), h, RANKS)
    for order in "CF":
        disk = np.memmap(tmp_path / order, float, "w+", shape=Y.shape, order=order)
        disk[:] = Y
        for rows in (1, 7, 1000):
            with monkeypatch.context() as patch:
                patch.setattr("mlrops._common.disk.READ_BYTES", rows * 8 * h.n)
                blocks = on_disk(disk)
                assert [len(block) for block in blocks][:-1] == [rows] * (99 // rows)
                assert sum(map(len, blocks)) == sum(map(len, blocks)) == 100
                assert bitwise(run(chunked_source(blocks, h, True), h, RANKS), expected)
    large = np.memmap(tmp_path / "large", np.float32, "w+", shape=(5000, 2000))
    assert [len(block) for block in on_disk(large)] == [2000, 2000, 1000]
    with pytest.raises(ValueError, match="2-d"):
        fit_factor_model(disk[0], (1, 1, 1), h)


# ---------------------------------------------------------------- starting points


@pytest.mark.parametrize("weights", [None, random_weights(60)], ids=["equal", "weighted"])
@pytest.mark.parametrize("center", [True, False])
def test_start_data(weights, center, monkeypatch):
    monkeypatch.setattr("mlrops.factor.estep.streamed.SKETCH_ITEMS", 0)
    h, Y = tree(), samples(60)
    source = chunked_source(split_rows(Y, 0), h, center, weights)
    data = dense_data(Y, h, center, weights)
    S = data.X @ data.X.T / data.weight
    X = source.start_data(60, None)
    assert X.shape == (24, source.n_samples) and X.flags.c_contiguous
    close(X @ X.T / source.n_samples, S, 1e-12)
    assert source.start_data(20, None).shape == (24, 20)
    close(source.start_data(20, None), source.start_data(20, None), 1e-12)
    assert not np.array_equal(source.start_data(20, 0), source.start_data(20, 1))
    sketches = [source.start_data(20, seed) for seed in range(400)]
    close(np.square(sketches[3]).sum(axis=1) / source.n_samples, np.diag(S), 1e-12)
    mean = sum(X @ X.T for X in sketches) / 400 / source.n_samples
    close(mean, S, 0.08)


def test_a_start_from_a_sketch_is_a_start(monkeypatch):
    monkeypatch.setattr("mlrops.factor.estep.streamed.SKETCH_ITEMS", 0)
    rng = np.random.default_rng(0)
    h = Hierarchy(rng.permutation(60), [[0, 60], [0, 30, 60]])
    Y = rng.standard_normal((500, 4)) @ rng.standard_normal((4, 60))
    Y += rng.standard_normal((500, 60))
    data, source = dense_data(Y, h), chunked_source([Y], h, True)
    exact, sketched = ([loglik for loglik, _, _ in run(from_, h, (2, 2), 10, point=Point(
        *start("svd", h, (2, 2), from_, None), from_.mean))] for from_ in (data, source))
    elsewhere = run(data, h, (2, 2), 1)[0][0]
    assert exact[0] - sketched[0] < 0.25 * (exact[0] - elsewhere)
    assert (np.diff(sketched) > 0).all() and abs(exact[-1] - sketched[-1]) < 0.2


# ---------------------------------------------------------------- compression


@pytest.mark.parametrize("N", [10, 24, 25, 49, 300])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_compression(N, center, weighted):
    h, Y = tree(), samples(N)
    weights = random_weights(N) if weighted else None
    expected = dense_data(Y, h, center, weights)
    found = compress_chunks(iter(split_rows(Y, N)), h, center, weights)
    assert found.X.shape[1] <= 24 and found.X.flags.c_contiguous
    assert (found.n_samples, found.weight) == (expected.n_samples, pytest.approx(expected.weight))
    close(found.X @ found.X.T, expected.X @ expected.X.T, 1e-12)
    close(found.mean, expected.mean, 1e-13)
    close(found.sums_of_squares, expected.sums_of_squares, 1e-12)
    same_iterates(run(found, h, RANKS), run(expected, h, RANKS), 1e-9)


def test_compression_keeps_small_deviations():
    h, Y = tree(), np.random.default_rng(0).standard_normal((500, 24))
    found = compress_chunks(np.array_split(Y + 1e6, 7), h, True)
    X = (Y - Y.mean(axis=0)).T[h.permutation]
    close(found.X @ found.X.T, X @ X.T, 1e-8)
    narrow = compress_chunks(np.array_split(Y.astype(np.float32), 7), h, True)
    assert narrow.dtype == np.float32 and narrow.X.dtype == narrow.mean.dtype == np.float64
    close(narrow.X @ narrow.X.T, X @ X.T, 1e-5)


# ---------------------------------------------------------------- bad input


def changed(value, at):
    Y = samples()
    Y[at] = value
    return np.split(Y, [40, 40, 70])


NAMES = [f"series {j}" for j in range(24)]


@pytest.mark.parametrize("chunks, options, error, message", [
    (changed(np.nan, (75, 3)), {}, ValueError, r'NaN in chunk 3, row 5, feature 3; missing="em"'),
    (changed(np.inf, (2, 0)), {}, ValueError, "chunk 0, row 2, feature 0"),
    (changed(np.nan, (75, 3)), {"names": NAMES}, ValueError, "feature series 3"),
    (changed(4.0, (slice(None), [1, 5])), {}, ValueError, r"2 constant features \(1, 5\)"),
    (changed(4.0, (slice(None), 1)), {"names": NAMES}, ValueError, r"\(series 1\)"),
    ([samples()[:1]], {}, ValueError, "at least 2 samples"),
    ([], {}, ValueError, "at least 2 samples.*0"),
    ([samples(), samples(n=23)], {}, ValueError, "chunk 1.*24 features.*samples are rows"),
    ([samples()[0]], {}, ValueError, "chunk 0 must be 2-d"),
    (samples(), {}, ValueError, "chunk 0 must be 2-d"),
    ([samples(), samples().astype(str)], {}, TypeError, "chunk 1 must be numeric"),
    ([samples() * 1j], {}, TypeError, "chunk 0 must be real"),
    ([samples().astype(str).astype(object)], {}, TypeError, "numeric"),
    ([scipy.sparse.csr_matrix(samples())], {}, TypeError, "one sparse matrix"),
    (scipy.sparse.csr_matrix(samples()), {}, TypeError, "sparse"),
    (3.0, {}, TypeError, "iterable of arrays or a function"),
    ([samples()], {"weights": np.ones(99)}, ValueError, "100 samples, got 99"),
    ([samples()], {"weights": np.ones(101)}, ValueError, "100 samples, got 101"),
    ([samples()], {"weights": -np.eye(100)[7]}, ValueError, "negative.*sample 7"),
    ([samples()], {"weights": np.zeros(100)}, ValueError, "zero"),
    ([samples()], {"weights": np.eye(100)[7]}, ValueError, "at least 2 samples.*1"),
    ([samples()], {"weights": np.full(100, np.nan)}, ValueError, "weights must be finite"),
])
@pytest.mark.parametrize("make", [chunked_source, compress_chunks])
def test_bad_chunks(make, chunks, options, error, message):
    with pytest.raises(error, match=message):
        make(chunks, tree(), True, **options)


@pytest.mark.parametrize("once", [
    (Y for Y in [samples()]), iter([samples()]), map(np.asarray, [samples()])])
def test_iterators_that_are_used_up(once):
    with pytest.raises(TypeError, match="used once; pass a function that makes a new one"):
        chunked_source(once, tree(), True)


def test_data_that_change_between_passes():
    h, chunks = tree(), [samples()]
    source = chunked_source(chunks, h, True)
    chunks.append(samples(1))
    with pytest.raises(RuntimeError, match="changed between passes: more than 100 rows"):
        run(source, h, RANKS)
    chunks[:] = [samples(99)]
    with pytest.raises(RuntimeError, match="changed between passes: 99 rows after 100"):
        run(source, h, RANKS)
    once = iter([samples()])
    source = chunked_source(lambda: once, h, True)
    with pytest.raises(RuntimeError, match="0 rows after 100.*new iterator"):
        run(source, h, RANKS)


def test_frames_bring_names():
    pd = pytest.importorskip("pandas")
    h, Y = tree(), samples()
    frames = [pd.DataFrame(part, columns=NAMES) for part in split_rows(Y, 1)]
    source = chunked_source(frames, h, True)
    assert source.names == tuple(NAMES)
    assert bitwise(run(source, h, RANKS), run(chunked_source([Y], h, True), h, RANKS))
    assert chunked_source([Y], h, True).names is None
    frames[-1] = frames[-1].rename(columns={"series 3": "other"})
    with pytest.raises(ValueError, match=r"chunk 3 .* none for 1 feature \(series 3\).*other"):
        chunked_source(frames, h, True)


def test_the_first_pass_looks_at_every_row():
    """Blocks are filled across chunks: no row is lost or read twice."""
    h, Y = Hierarchy.flat(3), np.arange(60.0).reshape(20, 3)
    for width in (1, 3, 7, 20, 50):
        rows = Chunks(split_rows(Y, width), h, None, None)
        seen = [X[:, : w.size].T.copy() for X, w in rows.blocks(
            width, np.arange(3), np.zeros(3), np.ones(3), first=True)]
        assert np.array_equal(np.concatenate(seen), Y)
        again = [X.T.copy() for X, _ in rows.blocks(
            width, np.arange(3), np.zeros(3), np.ones(3))]
        assert np.array_equal(np.concatenate(again), Y)
        lengths = [len(X) for X in again]
        assert max(lengths) <= width and max(lengths) - min(lengths) < len(lengths)
