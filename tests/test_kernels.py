"""The kernels as a process sees them: threads, fork, blocks of leaves, import, memory."""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from trees import computing, make_case, set_constants

from mlrops import MLR, Hierarchy
from mlrops.kernels import _jit, layout, leaf, threads

ROOT = Path(__file__).parents[1]


def in_a_new_process(code, **env):
    """Run `code` with this checkout on the path; what it prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": path, **env}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def large(n=60_000, leaf=50, ranks=(4, 3, 3), seed=0):
    """Enough work that it is handed to several threads."""
    rng = np.random.default_rng(seed)
    h = Hierarchy.balanced(n, [1, n // leaf // 20, n // leaf])
    h = Hierarchy(rng.permutation(n), h.boundaries)
    F = rng.standard_normal((n, sum(ranks)))
    return MLR.from_compact(h, ranks, F, rng.uniform(1, 2, n))


def everything(A, k=3):
    """One array a verb."""
    x = np.random.default_rng(1).standard_normal((A.shape[0], k))
    inverse, post = A.inv(), A.posterior(x)
    F, D = post.regress(np.square(x).sum(axis=1))
    return {
        "product": A @ x, "solve": A.solve(x), "one solve": A.solve(x[:, 0]), "one": A @ x[:, 0],
        "inverse": inverse @ x, "logdet": np.array(A.logdet()), "inv_quad": A.inv_quad(x),
        "whiten": A.whiten(x), "color": A.color(x), "F": F, "D": D, "mean": post.mean(-1),
        "covariance": post.covariance(-1), "U": inverse.U,
    }


def same(found, expected):
    """As the same input must give the same answer, anywhere: to 1e-12."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# ---------------------------------------------------------------- threads


@pytest.mark.slow
@pytest.mark.parametrize("n, leaf", [(60_000, 50), (30_000, 10_000)])
def test_any_number_of_threads_gives_the_same_answer(monkeypatch, n, leaf):
    found = []
    for count in ("1", "2", "3"):
        monkeypatch.setenv("MLROPS_NUM_THREADS", count)
        assert threads.count() == int(count)
        ranks = (4, 3, 3) if leaf == 50 else (6,)
        h = None if leaf == 50 else Hierarchy.balanced(n, [n // leaf])
        A = large(n, leaf) if h is None else MLR.from_compact(
            h, ranks, np.random.default_rng(0).standard_normal((n, 6)), np.ones(n))
        found.append(everything(A))
    for other in found[1:]:
        for verb, value in found[0].items():
            same(other[verb], value)


def test_work_is_shared_between_threads(monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "MIN_WORK", 1)
    offsets = np.array([0, 10, 20, 1010, 1020, 2000])
    ranges = []
    threads.run(lambda a, b: ranges.append((a, b)), offsets, 1, 5, 10)
    assert len(ranges) == 2 and sorted(ranges)[0][0] == 1 and sorted(ranges)[1][1] == 5
    assert sorted(ranges)[0][1] == sorted(ranges)[1][0]

    def fails(a, b):
        raise ArithmeticError("in a worker")

    with pytest.raises(ArithmeticError):
        threads.run(fails, offsets, 0, 5, 10)


def test_threads_that_call_a_kernel_first_at_once_do_not_compile_ever_after():
    """Of two equal entries for read-only arrays numba would take none, at any later call."""
    def total(x, out):
        out[0] = 0
        for i in range(x.size):
            out[0] += x[i]

    kernel, start = _jit.jit(total), threading.Barrier(4)
    x, found = np.arange(5.0), np.zeros((4, 1))
    x.flags.writeable = False

    def call(number):
        start.wait()
        kernel(x, found[number])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(4)))
    assert (found == 10).all()

    def compiles_again(*args, **kwargs):
        raise AssertionError("a call of a known signature went to the compiler")

    kernel._compile_for_args = compiles_again
    kernel(x, found[0])


def test_products_of_long_leaves_are_taken_once_whatever_the_blocks(monkeypatch):
    """Factoring and projecting in one pass takes those of all of them before it begins."""
    h = Hierarchy.balanced(40_000, [1, 4])  # leaves of 10,000 rows, a block each
    rng = np.random.default_rng(0)
    A = MLR.from_compact(h, (4, 4), rng.standard_normal((h.n, 8)), rng.uniform(1, 2, h.n))
    assert A._layout.long.size == 4
    X, taken, long_tdot = rng.standard_normal((h.n, 6)), [], leaf.long_tdot
    set_constants(monkeypatch, CACHE_ITEMS=1)

    def spy(*args, **kwargs):
        taken.append(args)
        return long_tdot(*args, **kwargs)

    monkeypatch.setattr(leaf, "long_tdot", spy)
    post = A.posterior(X)
    assert len(taken) == 1
    monkeypatch.undo()
    same(post.mean(-1), A.posterior(X).mean(-1))


def test_the_ways_of_computing_are_those_that_they_are_called():
    """What tests force by tuning constants is what small trees then do."""
    h = Hierarchy.balanced(24, [1, 4])
    plain = make_case(h, (1, 1), 0).A._layout
    assert (plain.top, plain.long.size, plain.in_one_piece) == (0, 0, True)
    with computing("subtrees shared by threads"):
        assert make_case(h, (1, 1), 0).A._layout.top == 1
    with computing("large leaves shared by pieces"):
        cut = make_case(h, (1, 1), 0).A._layout
        assert (cut.top, cut.long.size, cut.pieces[2].size) == (0, 4, 12)
    with computing("leaves in pieces"):
        assert make_case(h, (1, 1), 0).A._layout.long.size == 4


@pytest.mark.parametrize("asked", ["", "0", "-3", "many"])
def test_a_senseless_number_of_threads_is_passed_over(monkeypatch, asked):
    monkeypatch.setenv("MLROPS_NUM_THREADS", asked)
    assert threads.count() >= 1


def test_concurrent_callers(monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", "2")
    A = large()
    x = np.random.default_rng(2).standard_normal((A.shape[0], 8))
    expected = [large().solve(x[:, j]) for j in range(8)]
    with ThreadPoolExecutor(8) as pool:  # the first of them factors, the others run into it
        for j, y in enumerate(pool.map(A.solve, x.T)):
            same(y, expected[j])
        operators = [make_case(Hierarchy.balanced(40, [1, 4]), (2, 2), seed) for seed in range(8)]
        for c, y in zip(operators, pool.map(lambda c: c.A.logdet(), operators), strict=True):
            assert y == pytest.approx(np.linalg.slogdet(c.dense)[1], rel=1e-10)


def _solve_in_child(connection, A, x):
    connection.send(A.solve(x))
    connection.send(large(seed=3).solve(x))
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_the_same(monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", "2")
    A, x = large(), np.linspace(-1, 1, 60_000)
    expected = A.solve(x), large(seed=3).solve(x)
    assert threads._pool is not None and threads._pool._threads  # workers run in the parent
    context = multiprocessing.get_context("fork")
    mine, childs = context.Pipe()
    child = context.Process(target=_solve_in_child, args=(childs, A, x))
    child.start()
    try:
        for value in expected:
            assert mine.poll(30), "the child hangs"
            same(mine.recv(), value)
    finally:
        child.join(10)
        child.kill()
    assert child.exitcode == 0
    same(A.solve(x), expected[0])


# ---------------------------------------------------------------- input


def test_kernels_take_read_only_and_strided_input():
    A = large(6_000)
    x = np.random.default_rng(0).standard_normal((6_000, 4))
    expected = everything(A)
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.zeros((12_000, 8))
    wide[::2, ::2] = x
    for kind in (frozen, np.asfortranarray(x), wide[::2, ::2], x[::-1].copy()[::-1]):
        same(A.solve(kind), A.solve(x))
        same(A @ kind, A @ x)
        same(A.posterior(kind).mean(0), A.posterior(x).mean(0))
    strided = np.zeros((6_000, 20))
    strided[:, ::2] = A.F
    B = MLR.from_compact(A.hierarchy, A.ranks, strided[:, ::2], np.repeat(A.D, 2)[::2], copy=False)
    for verb, value in everything(B).items():
        same(value, expected[verb])


# ---------------------------------------------------------------- blocks of leaves


@pytest.mark.parametrize("items", [1, 300, 5_000, 10**9])
@pytest.mark.parametrize("shares", [2, 16, 10**6])
def test_sweeps_in_blocks_of_leaves_give_the_same_results(monkeypatch, items, shares):
    set_constants(monkeypatch, SHARES=shares)
    monkeypatch.setenv("MLROPS_NUM_THREADS", "1")
    expected = everything(large(6_000))
    monkeypatch.setenv("MLROPS_NUM_THREADS", "3")
    set_constants(monkeypatch, BLOCK_ITEMS=items, CACHE_ITEMS=items, MIN_WORK=0)
    for verb, value in everything(large(6_000)).items():
        same(value, expected[verb])


def test_blocks_cover_all_leaves_once():
    assert list(layout.blocks(3, 120, 10, 500)) == [(3, 53), (53, 103), (103, 120)]
    assert list(layout.blocks(0, 3, 10**9, 1)) == [(0, 1), (1, 2), (2, 3)]


# ---------------------------------------------------------------- import


def test_import_compiles_nothing():
    out = in_a_new_process("""
        import json, sys
        import mlrops
        from mlrops.operators.mlr import MLR
        from mlrops.factor.factor_model import fit_factor_model
        loaded = [m for m in ("numba", "llvmlite", "pandas", "sklearn", "matplotlib", "pylops")
                  if m in sys.modules]
        kernels = [m for m in sys.modules if m.startswith("mlrops.kernels._compiled")]
        print(json.dumps([loaded, kernels]))
    """)
    assert json.loads(out) == [[], []]


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("counts, ranks", [
    ([1, 200, 20_000], (4, 4, 4)),
    ([1, 10, 20], (4, 4, 4)),
], ids=["leaves of 10", "leaves of 10,000"])
def test_solve_and_logdet_stay_within_a_few_copies_of_the_factors(counts, ranks):
    n, R = 200_000, sum(ranks)
    rng = np.random.default_rng(0)
    h = Hierarchy.balanced(n, counts)
    A = MLR.from_compact(h, ranks, rng.standard_normal((n, R)), np.ones(n))
    make_case(Hierarchy.balanced(40, [1, 2, 4]), ranks, 0).A.solve(np.ones(40))  # compiled by now
    b = rng.standard_normal(n)
    tracemalloc.start()
    try:
        A.solve(b)
        A.logdet()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The factor is s R ≤ n R numbers here, a block of Gram matrices 4 million more.
    assert peak < 8 * (3 * n * R + layout.BLOCK_ITEMS), f"{peak / 8 / n / R:.1f} n R numbers"
