"""Tasks side by side: order, errors and warnings as if they ran one after the other; threads."""

import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from mlrops._common import cores
from mlrops._common.jobs import Jobs
from mlrops._common.warned import kept_warnings, pass_on
from mlrops.kernels import threads

joblib = pytest.importorskip("joblib")

BACKENDS = ["loky", "threading", pytest.param("multiprocessing", marks=pytest.mark.slow)]


def results(function, tasks, n_jobs=2, **options):
    return [value for _, value in Jobs(n_jobs).run(function, tasks, **options)]


def ones(n):
    return ((i,) for i in range(n))


# ---------------------------------------------------------------- tasks, at the top to be sent


def squared(i, wait=0.0):
    time.sleep(wait)
    return i * i, os.getpid()


def broken(i):
    time.sleep(0.3 if i == 2 else 0.05)  # the later one is there first
    if i in (2, 3):
        raise Odd(i)
    return i


class Odd(ArithmeticError):
    def __init__(self, i):
        self.i = i
        super().__init__(f"task {i} is odd")

    def __reduce__(self):
        return Odd, (self.i,)


def warning(i, wait=0.0):
    time.sleep(wait)
    warnings.warn(f"number {i}", UserWarning, stacklevel=1)
    warnings.warn(f"old {i}", DeprecationWarning, stacklevel=2)
    return i


def interrupted(i):
    raise KeyboardInterrupt


def nested(i):
    jobs = Jobs()
    return jobs.here, [value for _, value in jobs.run(squared, ones(2))], os.getpid()


def threads_seen(i):
    seen = []
    threads.run(lambda a, b: seen.append((a, b)), np.arange(9), 0, 8, 10**9)
    blas = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    return cores.count(), len(seen), max(blas, default=0), os.getpid()


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_come_in_the_order_of_their_tasks(backend):
    tasks = [(i, 0.1 * (i % 3 == 0)) for i in range(8)]
    with joblib.parallel_config(backend=backend):
        found = list(Jobs(2).run(squared, tasks))
    assert [task for task, _ in found] == tasks
    assert [value for _, (value, _) in found] == [i * i for i in range(8)]
    assert (os.getpid() in {pid for _, (_, pid) in found}) == (backend == "threading")


def test_none_is_one_at_a_time_unless_joblib_is_configured():
    assert Jobs().here and Jobs(1).here and not Jobs(2).here
    assert {pid for _, pid in results(squared, ones(3), None)} == {os.getpid()}
    with joblib.parallel_config(n_jobs=2):
        assert Jobs().at_once == 2 and Jobs(1).here
        assert os.getpid() not in {pid for _, pid in results(squared, ones(3), None)}
    with joblib.parallel_config(backend="loky"):
        assert Jobs().here  # as in scikit-learn
    assert Jobs(-1).at_once == joblib.cpu_count()
    assert Jobs(np.int64(2)).at_once == 2


def test_without_workers_a_task_is_run_when_it_is_asked_for():
    done = []
    found = Jobs().run(lambda i: done.append(i), ones(5))
    assert done == []
    next(found)
    assert done == [0]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_what_is_not_wanted_any_more_is_left_out(n_jobs):
    refused = []
    found = Jobs(n_jobs).run(squared, ones(20), wanted=lambda i: i % 10 not in refused)
    seen = []
    for (i,), _ in found:
        seen.append(i)
        refused.append(i % 10)
    assert seen == list(range(10))


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_tasks_of_a_task_run_where_it_does(backend):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = results(nested, ones(3), None)
    for here, values, pid in found:
        assert here and values == [(0, pid), (1, pid)]


def test_joblib_is_imported_only_where_it_is_used():
    code = ("import sys, numpy as np; from mlrops import fit_factor_model, select_ranks\n"
            "Y = np.random.default_rng(0).standard_normal((30, 4))\n"
            "fit_factor_model(Y, 1, n_init=2, random_state=0, n_jobs=1)\n"
            "select_ranks(Y, [0, 1], random_state=0)\n"
            "assert 'joblib' not in sys.modules")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_without_joblib_there_is_one_at_a_time(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    assert results(squared, ones(2), None)[1][0] == 1
    with pytest.raises(ImportError, match=r'n_jobs runs tasks.*pip install "mlrops\[sklearn\]"'):
        results(squared, ones(2))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("n_jobs, error", [(0, ValueError), (1.5, TypeError), ("a", TypeError),
                                           (True, TypeError), (np.float64(2), TypeError)])
def test_bad_numbers_are_refused(n_jobs, error):
    with pytest.raises(error, match="n_jobs must be the number of tasks at a time, -1 for all"
                                    " cores, or None, got"):
        Jobs(n_jobs)


def test_what_watches_needs_this_process():
    collection = pytest.importorskip("dask.array").ones((4, 2))
    for name, value, reason in (
            ("callback", print, "a callback follows fits one after the other: leave n_jobs out"),
            ("checkpoint", "path", "a checkpoint follows fits one after the other: leave n_jobs"),
            ("data", collection, "each fit to data of dask has all workers: leave n_jobs out")):
        with pytest.raises(ValueError, match=reason):
            Jobs(2, **{name: value})
        assert Jobs(1, **{name: value}).here
        with joblib.parallel_config(n_jobs=2):
            assert Jobs(None, **{name: value}).here


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_error_comes_when_it_is_its_turn(backend, recwarn):
    seen, usual = [], warnings.showwarning
    with joblib.parallel_config(backend=backend), pytest.raises(Odd, match="task 2") as caught:
        for _, value in Jobs(2).run(broken, ones(30)):
            seen.append(value)
    assert seen == [0, 1] and caught.value.i == 2
    assert warnings.showwarning is usual  # no thread is left
    assert not recwarn.list  # of tasks that are left undone
    assert "in broken" in "".join(traceback.format_exception(caught.value))  # where it was raised
    assert [value for value, _ in results(squared, ones(2))] == [0, 1]  # workers go on


def test_an_interrupted_worker_interrupts(recwarn):
    with pytest.raises(KeyboardInterrupt):
        results(interrupted, ones(4))
    assert not recwarn.list


# ---------------------------------------------------------------- warnings


def warned(n_jobs, *filters):
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for action, options in filters:
            warnings.filterwarnings(action, **options)
        assert results(warning, ones(3), n_jobs) == [0, 1, 2]
    return [(str(w.message), w.category, w.filename, w.lineno) for w in caught
            if w.filename == __file__]


FILTERS = [
    [("always", {})],
    [("ignore", {"category": DeprecationWarning}), ("always", {"category": UserWarning})],
    [("ignore", {}), ("always", {"module": __name__})],
    [("ignore", {}), ("once", {"message": "number [12]"})],
]


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("filters", FILTERS)
def test_warnings_are_those_of_one_task_after_the_other(filters, backend):
    """At the same lines, through the filters of this process; of the task's own line, that is."""
    def own(found):
        return [warning for warning in found if warning[0].startswith("number")]

    expected = own(warned(1, *filters))
    assert expected
    with joblib.parallel_config(backend=backend):
        assert own(warned(2, *filters)) == expected


def test_a_warning_at_one_line_is_shown_once():
    def shown(n_jobs):
        vars(sys.modules[__name__]).pop("__warningregistry__", None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            results(repeated, ones(4), n_jobs)
        return [str(w.message) for w in caught]

    assert shown(2) == shown(1) == ["again"]


def repeated(i):
    warnings.warn("again", UserWarning, stacklevel=1)


def test_a_warning_that_is_an_error_is_raised_here():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="number 0"):
            results(warning, ((i, 0.05) for i in range(3)))


def test_each_thread_keeps_its_own_warnings():
    """However threads come and go; those of others are shown as ever."""
    before, gate = (warnings.showwarning, list(warnings.filters)), threading.Barrier(4)

    def keep(i):
        gate.wait()
        time.sleep(0.005 * i)
        with kept_warnings() as kept:
            for _ in range(20):
                warnings.warn(f"of {i}", UserWarning, stacklevel=1)
                time.sleep(0.001)
        return [str(w.message) for w in kept]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(keep, i) for i in range(3)]
            gate.wait()
            time.sleep(0.01)
            warnings.warn("of main", UserWarning, stacklevel=1)
            for i, one in enumerate(found):
                assert one.result() == [f"of {i}"] * 20
    assert [str(w.message) for w in caught] == ["of main"]
    assert (warnings.showwarning, list(warnings.filters)) == before


def test_kept_warnings_within_kept_warnings():
    with kept_warnings() as outer:
        with kept_warnings() as inner:
            warnings.warn("in", UserWarning, stacklevel=1)
            warnings.warn("in", DeprecationWarning, stacklevel=1)
        pass_on(inner, but=DeprecationWarning)
        warnings.warn("out", UserWarning, stacklevel=1)
    assert [w.category for w in inner] == [UserWarning, DeprecationWarning]
    assert [str(w.message) for w in outer] == ["in", "out"]
    assert outer[0].lineno == inner[0].lineno


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own, n_jobs, each", [(4, 2, 2), (3, 2, 1), (1, 2, 1), (4, 4, 1)])
def test_tasks_share_the_threads_of_this_process(own, n_jobs, each, backend, monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", str(own))
    before = threads_seen(0)
    with joblib.parallel_config(backend=backend):
        for count, shared, blas, pid in results(threads_seen, ones(2 * n_jobs), n_jobs):
            assert count == shared == each
            if pid != os.getpid():  # BLAS's threads are the caller's to limit in the caller's
                assert blas <= each
    assert threads_seen(0) == before and before[0] == own


def test_a_number_of_threads_that_the_user_gives(monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", "8")
    with joblib.parallel_config(backend="loky", inner_max_num_threads=3):
        assert {count for count, *_ in results(threads_seen, ones(2))} == {3}


def test_a_limit_is_for_one_thread(monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", "3")
    with cores.at_most(2), ThreadPoolExecutor(1) as pool:
        assert cores.count() == 2 and pool.submit(cores.count).result() == 3
        with cores.at_most(5):
            assert cores.count() == 3
        assert cores.count() == 2
    assert cores.count() == 3


# ---------------------------------------------------------------- a cluster of dask


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(processes=True, n_workers=2, threads_per_worker=2,
                                  dashboard_address=None) as workers:
        with distributed.Client(workers), joblib.parallel_config(backend="dask"):
            yield


class Sent:
    """A function with data, that knows how often it was sent."""

    count = 0

    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        Sent.count += 1
        return Sent, (self.data,)

    def __call__(self, i):
        time.sleep(0.3)
        return i, self.data.sum(), *threads_seen(i)


@pytest.mark.slow
def test_a_cluster(cluster, monkeypatch):
    monkeypatch.setenv("MLROPS_NUM_THREADS", "8")
    assert Jobs().at_once == 4 and Jobs(1).here
    found = results(Sent(np.ones(1000)), ones(12), None)
    assert [i for i, *_ in found] == list(range(12))
    assert Sent.count < 6  # not with each of twelve tasks
    assert os.getpid() not in {pid for *_, pid in found}
    assert {(total, count, shared) for _, total, count, shared, *_ in found} == {(1000, 1, 1)}
    assert all(blas == 1 for *_, blas, _ in found)
    assert {here for here, *_ in results(nested, ones(3), None)} == {True}


@pytest.mark.slow
def test_errors_and_warnings_of_a_cluster(cluster, recwarn):
    with pytest.raises(Odd, match="task 2 is odd"):
        results(broken, ones(30), None)
    assert not recwarn.list
    here = [w for w in warned(1, *FILTERS[0]) if w[0].startswith("number")]
    assert [w for w in warned(None, *FILTERS[0]) if w[0].startswith("number")] == here
