"""Threads of our own and of BLAS, whose limits are the caller's: they are read and never set."""

import os
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from mlrops import MLR, Hierarchy
from mlrops.kernels import leaf, threads

OPENBLAS = pytest.mark.skipif(threads._blas() is None, reason="NumPy's BLAS is not an OpenBLAS")


def limits():
    """Threads of each BLAS that is loaded."""
    return {lib["filepath"]: lib["num_threads"] for lib in threadpool_info()
            if lib["user_api"] == "blas"}


@pytest.fixture
def case(monkeypatch):
    """An operator with large leaves, which threads share, and data."""
    monkeypatch.setenv("MLROPS_NUM_THREADS", "2")
    rng = np.random.default_rng(0)
    A = MLR.from_compact(Hierarchy.balanced(16_000, [1, 4, 32]), (6, 5, 4),
                         rng.standard_normal((16_000, 15)), rng.uniform(0.5, 1, 16_000))
    return A, rng.standard_normal((16_000, 30))


def within(monkeypatch, function):
    """Call a function in the middle of every sweep; whether it was called in shared work."""
    tdot, seen = leaf.tdot, []

    def spy(*args, **kwargs):
        seen.append(threads._local.inside)
        function()
        return tdot(*args, **kwargs)

    monkeypatch.setattr(leaf, "tdot", spy)
    return seen


def in_main(function):
    """Call a function in the main thread, and in no other."""
    if threading.current_thread() is threading.main_thread():
        function()


@OPENBLAS
def test_a_limit_entered_before_a_sweep_holds_in_it_and_behind_it(case, monkeypatch):
    A, X = case
    for limit in (2, 1, 3):
        with threadpool_limits(limit):
            expected, found = limits(), []
            with monkeypatch.context() as patch:
                seen = within(patch, lambda found=found: found.append(limits()))
                A @ X
            assert any(seen) and len(found) == len(seen) > 1
            assert all(one == expected for one in found) and limits() == expected


@OPENBLAS
@pytest.mark.parametrize("first", [2, 1])
def test_a_limit_entered_or_left_during_a_sweep_is_kept(first, case, monkeypatch):
    A, X = case
    before = limits()
    outer = threadpool_limits(first)
    at_first, inner = limits(), []
    with monkeypatch.context() as patch:
        within(patch, lambda: inner or in_main(lambda: inner.append(threadpool_limits(3))))
        A @ X  # entered within
    try:
        assert set(limits().values()) == {3}
        with monkeypatch.context() as patch:
            within(patch, lambda: inner and in_main(lambda: inner.pop().restore_original_limits()))
            A @ X  # left within
        assert not inner and limits() == at_first
    finally:
        outer.restore_original_limits()
    assert limits() == before


@OPENBLAS
def test_many_sweeps_at_once(case):
    """Sweeps in several threads while a caller enters and leaves limits."""
    A, X = case
    before, expected, found, stop = limits(), A @ X, [], threading.Event()

    def sweep():
        while not stop.is_set():
            found.append(np.array_equal(A @ X, A @ X) and np.allclose(A @ X, expected))

    workers = [threading.Thread(target=sweep) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        for limit in (1, 2, 3, 1, 4, 2):
            with threadpool_limits(limit):
                done = len(found)
                assert set(limits().values()) == {limit}
                while len(found) < done + 2 and all(worker.is_alive() for worker in workers):
                    stop.wait(0.001)
                assert set(limits().values()) == {limit}
            assert limits() == before
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert len(found) >= 12 and all(found) and limits() == before


@OPENBLAS
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_in_a_sweep_has_the_limits_and_sweeps(case, monkeypatch):
    A, X = case
    expected, children = A @ X, []

    def fork():
        if children or threading.current_thread() is not threading.main_thread():
            return
        children.append(os.fork())
        if children[0] == 0:  # the sweep of the parent goes on here to no end: begin another
            right = False
            try:
                right = threads._blas()() == 2 and np.allclose(A @ X, expected)
            finally:
                os._exit(0 if right else 1)

    with threadpool_limits(2), monkeypatch.context() as patch:
        within(patch, fork)
        assert np.allclose(A @ X, expected)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


@OPENBLAS
def test_no_thread_spins_behind_a_product(case):
    """Threads of BLAS that took part would be busy for a while, in case another product comes."""
    A, X = case
    with threadpool_limits(2):
        time.sleep(0.3)  # for those of other tests
        for call in (lambda: A @ X, lambda: A.solve(X)):
            call()
            start = time.process_time()
            time.sleep(0.2)
            assert time.process_time() - start < 0.1


@pytest.mark.parametrize("blas, k", [(1, 90), (4, 90), (4, 1200), (1, 1200), (None, 30)])
def test_products_shared_by_threads_are_small_where_blas_has_threads(blas, k, case, monkeypatch):
    """BLAS takes one thread for small products: what is shared is cut into such ones."""
    A, X = case
    X = np.resize(X, (16_000, k))
    monkeypatch.setattr(threads, "_blas", lambda: None if blas is None else lambda: blas)
    matmul, found = np.matmul, []

    def spy(a, b, **kwargs):
        found.append((threads._local.inside, a.shape[-2] * a.shape[-1] * b.shape[-1]))
        return matmul(a, b, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np, "matmul", spy)
        A @ X
    assert {inside for inside, _ in found} == {True}
    largest = max(work for _, work in found)
    if blas == 4:
        assert largest <= threads.BLAS_ALONE
    else:
        assert largest > threads.BLAS_ALONE or k == 30


@pytest.mark.quick(4)
@pytest.mark.parametrize("blas", [1, 4, None])
@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_large_leaves_however_they_are_shared(blas, count, monkeypatch):
    """The same numbers, to rounding, however the work of large leaves is shared out."""
    monkeypatch.setattr(threads, "_blas", lambda: None if blas is None else lambda: blas)
    monkeypatch.setenv("MLROPS_NUM_THREADS", count)
    rng = np.random.default_rng(0)
    h = Hierarchy.balanced(16_000, [1, 4, 32])
    A = MLR.from_compact(h, (6, 5, 4), rng.standard_normal((16_000, 15)),
                         rng.uniform(0.5, 1, 16_000))
    X = rng.standard_normal((16_000, 30))
    posterior = A.posterior(X)
    F, D = posterior.regress(np.square(X).sum(axis=1))
    sigma_X = A.D[:, None] * X + sum(
        np.where((h.labels(level) == g)[:, None], f, 0) @ (f[h.labels(level) == g].T
                                                           @ X[h.labels(level) == g])
        for level, f in enumerate(A.factors) for g in range(h.group_counts[level]))
    np.testing.assert_allclose(A @ X, sigma_X, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(A.solve(sigma_X), X, rtol=1e-7, atol=1e-8)
    # One EM step on one leaf by hand: regression of its features on the factors of its path.
    leaf = h.features(2, 3)
    Z = np.concatenate([posterior.mean(level)[h.labels(level)[leaf[0]]] for level in range(3)])
    cov = posterior._path_covariance[3]
    W = 30 * cov + Z @ Z.T
    V = X[leaf] @ Z.T
    np.testing.assert_allclose(F[leaf], np.linalg.solve(W, V.T).T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        D[leaf], (np.square(X[leaf]).sum(axis=1) - (F[leaf] * V).sum(axis=1)) / 30, rtol=1e-9)
