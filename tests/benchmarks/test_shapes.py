"""Every shape against the BLAS floor of its numbers: tiny leaves, many columns, small n, float32.

Floors are products with the same F and a dense vector or block, in the same run; at small n the
peer is SciPy's own operator around a dense matrix, which is what a call costs at least.
"""

import resource
from functools import cache
from time import process_time

import numpy as np
import pytest
import scipy.sparse.linalg
from test_mlr_speed import em_iteration

from mlrops import MLR, Hierarchy, LowRankPlusDiagonal
from mlrops.cli.bench.timing import best_of

TINY, WIDE = (3, 3, 3, 3), (14, 12, 11, 11, 11, 10)


def tiny_tree(n):
    """Leaves of ten features."""
    return Hierarchy.balanced(n, (1, n // 1000, n // 100, n // 10))


def wide_tree(n):
    return Hierarchy.balanced(n, (1, 2, 4, 8, 16, 32))


def fresh(h, ranks, F, D):
    """An operator without a factorization, at no cost."""
    return MLR.from_compact(h, ranks, F, D, copy=False, check_finite=False)


def draw(h, ranks, k, dtype=float):
    rng = np.random.default_rng(0)
    F = rng.standard_normal((h.n, sum(ranks))).astype(dtype)
    D = rng.uniform(0.5, 1.5, h.n).astype(dtype)
    x = rng.standard_normal((h.n, k) if k > 1 else h.n).astype(dtype)
    z = rng.standard_normal((F.shape[1], k) if k > 1 else F.shape[1]).astype(dtype)
    return F, D, x, z


@cache
def case(tree, n, ranks, k, dtype):
    """An operator, what it was made of, right-hand sides at random and Σ times them."""
    h = tree(n)
    F, D, x, z = draw(h, ranks, k, dtype)
    A = fresh(h, ranks, F, D)
    A.logdet()
    return A, F, D, x, z, A @ x


PRODUCTS = ["product", "solve", "solve of Σ x"]


def against_products(against_floor, title, name, limit, tree, n, ranks, k, dtype=float):
    """One of `PRODUCTS`, or factoring, against the two products with F, or `FᵀF`."""
    A, F, D, x, z, b = case(tree, n, ranks, k, dtype)
    operations = {"product": lambda: A @ x, "solve": lambda: A.solve(x),
                  "solve of Σ x": lambda: A.solve(b),
                  "factor + logdet": lambda: fresh(A.hierarchy, ranks, F, D).logdet()}
    columns = "" if name.startswith("factor") else f", {k} column{'s' if k > 1 else ''}"
    floor, words = (lambda: (F.T @ x, F @ z)), "`Fᵀx`, `F z`"
    if name.startswith("factor"):
        floor, words = (lambda: F.T @ F), "`FᵀF`"
    against_floor(f"{title}: {name}{columns}", words, floor, operations[name], limit,
                  9 if n * k > 2_000_000 else 40)


@pytest.mark.parametrize("n, limits", [(10**4, (2.2, 3, 6, 4)), (10**6, (1.5, 2, 4, 4))])
@pytest.mark.parametrize("number", range(4))
def test_tiny_leaves(number, n, limits, against_floor):
    name = [*PRODUCTS, "factor + logdet"][number]
    against_products(against_floor, f"leaves of 10, n = {n:,}", name, limits[number], tiny_tree, n,
                     TINY, 1)


@pytest.mark.parametrize("n", [10**4, 10**6])
def test_em_on_tiny_leaves(n, against_floor):
    A, F, D, *_ = case(tiny_tree, n, TINY, 1, float)
    X = np.random.default_rng(1).standard_normal((n, 20))
    Y, Z = np.ascontiguousarray(X.T), np.random.default_rng(2).standard_normal((F.shape[1], 20))
    squares, out = np.einsum("ik,ik->i", X, X), (np.empty_like(F), np.empty_like(D))
    against_floor(f"leaves of 10, n = {n:,}: EM iteration, N = 20", "`Fᵀ Yᵀ`, `Z Y`",
                  lambda: (F.T @ Y.T, Z @ Y),
                  lambda: em_iteration(A.hierarchy, TINY, F, D, X, squares, out), 3.5, 9)


def test_ten_million_features(benchmark, record_in):
    """Leaves of 10: seconds of CPU a feature at n = 10⁷ over those at 10⁶, and the memory taken."""
    def measure():
        rows = []
        for n in (10**6, 10**7):
            h = tiny_tree(n)
            F, D, b, _ = draw(h, TINY, 1)
            times = []
            for _ in range(2):
                A, marks = fresh(h, TINY, F, D), [process_time()]
                for call in (A.logdet, lambda A=A, b=b: A.solve(b), lambda A=A, b=b: A @ b):
                    call()
                    marks.append(process_time())
                times.append(np.diff(marks))
            rows.append(1e9 * np.min(times, axis=0) / n)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        for name, a, b in zip(("factor + logdet", "first solve", "product"), *rows, strict=True):
            record_in("Ten million features in leaves of 10, CPU time a feature; aim 1.3",
                      ("operation", "n = 10⁶", "n = 10⁷", "ratio", "peak of all"), name,
                      f"{a:.0f} ns", f"{b:.0f} ns", f"{b / a:.2f}", f"{peak:.1f} GB")

    benchmark.pedantic(measure, rounds=1)


@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("name", PRODUCTS)
def test_many_columns(name, k, against_floor):
    against_products(against_floor, "R = 69, 32 leaves, n = 100,000", name, 1.2, wide_tree, 100_000,
                     WIDE, k)


@pytest.mark.parametrize("name", PRODUCTS)
def test_hundreds_of_columns(name, against_floor):
    against_products(against_floor, "R = 69, 32 leaves, n = 10,000", name, 1.4, wide_tree, 10_000,
                     WIDE, 512)


@pytest.mark.parametrize("tree, n, ranks, limit", [
    (wide_tree, 100_000, WIDE, 1.2), (tiny_tree, 10_000, TINY, 3)], ids=["wide", "tiny"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_single_precision(name, tree, n, ranks, limit, against_floor):
    against_products(against_floor, f"float32, R = {sum(ranks)}, n = {n:,}", name, limit, tree, n,
                     ranks, 1, np.float32)


@pytest.mark.parametrize("k", [1, 64])
@pytest.mark.parametrize("name", ["product", "solve"])
def test_low_rank_plus_diagonal(name, k, against_floor):
    rng = np.random.default_rng(0)
    F, D = rng.standard_normal((100_000, 30)), rng.uniform(0.5, 1.5, 100_000)
    x, z = rng.standard_normal((100_000, k)), rng.standard_normal((30, k))
    A = LowRankPlusDiagonal(F, D)
    A.logdet()
    against_floor(f"LowRankPlusDiagonal, n = 100,000, k = 30: {name}, {k} columns", "`Fᵀx`, `F z`",
                  lambda: (F.T @ x, F @ z), lambda: A @ x if name == "product" else A.solve(x),
                  1.2, 9)


def test_small(benchmark, record_in):
    """A call at small n: microseconds beside SciPy's own operator."""
    rng = np.random.default_rng(0)

    def measure():
        for n in (50, 200, 1000):
            h = Hierarchy.balanced(n, (1, 5))
            A = MLR.from_compact(h, (2, 2), rng.standard_normal((n, 4)), rng.uniform(0.5, 1.5, n))
            peer = scipy.sparse.linalg.aslinearoperator(rng.standard_normal((n, n)))
            x = rng.standard_normal(n)
            A.logdet()
            times = [1e6 * best_of(call, 2000)[0] for call in (
                lambda peer=peer, x=x: peer @ x, lambda A=A, x=x: A @ x,
                lambda A=A, x=x: A.solve(x))]
            record_in("Calls at small n, microseconds; to reach: product 25, solve 30",
                      ("n", "SciPy's operator", "MLR product", "MLR solve"),
                      f"{n:,}", *(f"{t:.0f}" for t in times))

    benchmark.pedantic(measure, rounds=1)


def test_what_qr_costs(benchmark, record_in):
    """The factorization for D next to nothing, over the one for ordinary D."""
    def measure():
        for title, h, ranks in (("leaves of 10, n = 10,000", tiny_tree(10_000), TINY),
                                ("R = 69, 32 leaves, n = 100,000", wide_tree(100_000), WIDE)):
            F, D, x, _ = draw(h, ranks, 1)
            ours, hard = fresh(h, ranks, F, D), fresh(h, ranks, F, 1e-12 * D)
            assert (ours.factorization.method, hard.factorization.method) == ("cholesky", "qr")
            hard.logdet()
            row = [best_of(call, 5)[0] for call in (
                lambda h=h, r=ranks, F=F, D=D: fresh(h, r, F, D).logdet(),
                lambda h=h, r=ranks, F=F, D=D: fresh(h, r, F, 1e-12 * D).logdet(),
                lambda A=ours, x=x: A.solve(x), lambda A=hard, x=x: A.solve(x))]
            record_in("QR where D is next to nothing, over Cholesky",
                      ("shape", "factor", "by QR", "ratio", "solve", "by QR", "ratio"), title,
                      *(f"{1e3 * t:.2f} ms" for t in row[:2]), f"{row[1] / row[0]:.1f}",
                      *(f"{1e3 * t:.2f} ms" for t in row[2:]), f"{row[3] / row[2]:.1f}")

    benchmark.pedantic(measure, rounds=1)


def test_two_threads_against_one(benchmark, record_in, monkeypatch):
    """What two threads gain on work above 10 ms."""
    def measure():
        for title, h, ranks, k in (("leaves of 10, n = 1,000,000", tiny_tree(10**6), TINY, 1),
                                   ("R = 69, 32 leaves, n = 100,000", wide_tree(100_000), WIDE, 64),
                                   ("one leaf, R = 69, n = 100,000", Hierarchy.flat(100_000),
                                    (69,), 64)):
            F, D, x, _ = draw(h, ranks, k)
            A = fresh(h, ranks, F, D)
            A.logdet()
            rows = []
            for count in ("1", "2"):
                monkeypatch.setenv("MLROPS_NUM_THREADS", count)
                rows.append([best_of(call, 7)[0] for call in (
                    lambda A=A, x=x: A @ x, lambda A=A, x=x: A.solve(x),
                    lambda h=h, r=ranks, F=F, D=D: fresh(h, r, F, D).logdet())])
            record_in("Two threads over one, with BLAS on one thread (OPENBLAS_NUM_THREADS=1)",
                      ("shape", "product", "solve", "factor + logdet"), f"{title}, k = {k}",
                      *(f"{1e3 * a:.1f} ms, {a / b:.2f} times as fast"
                        for a, b in zip(*rows, strict=True)))

    benchmark.pedantic(measure, rounds=1)


def of_cola(F, D):
    """The same matrix as an operator of CoLA, of which products are taken; None without it."""
    try:
        import cola
    except ImportError:
        return None
    ops = cola.ops  # by their classes: + and @ are ambiguous to some versions of its dispatch
    return ops.Sum(ops.Product(ops.Dense(F), ops.Dense(F.T)), ops.Diagonal(D))


def test_libraries_on_torch(benchmark, record_in):
    """linear_operator and CoLA, where torch and they are installed: F Fᵀ + diag(D)."""
    torch = pytest.importorskip("torch")
    linear_operator = pytest.importorskip("linear_operator")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    F, D = rng.standard_normal((100_000, 30)), rng.uniform(0.5, 1.5, 100_000)
    x = rng.standard_normal(100_000)
    tF, tD, tx = (torch.from_numpy(array) for array in (F, D, x))

    def theirs():
        low = linear_operator.operators.LowRankRootLinearOperator(tF)
        return low + linear_operator.operators.DiagLinearOperator(tD)

    def everything():
        S = theirs()
        return S.solve(tx[:, None]), S.logdet()

    def ours():
        A = LowRankPlusDiagonal(F, D)
        return A.solve(x), A.logdet()

    def measure():
        S, A = theirs(), LowRankPlusDiagonal(F, D)
        rows = [("linear_operator", "product", lambda: S @ tx, lambda: A @ x),
                ("linear_operator", "build, factor, solve, logdet", everything, ours)]
        if (C := of_cola(tF, tD)) is not None:
            rows.append(("CoLA", "product", lambda: C @ tx, lambda: A @ x))
        for library, name, a, b in rows:
            if name == "product":
                np.testing.assert_allclose(b(), a().numpy(), rtol=1e-8)
            times = best_of(a, 15)[0], best_of(b, 15)[0]
            record_in("Libraries on torch, n = 100,000, k = 30, one thread",
                      ("library", "operation", "theirs", "ours", "theirs over ours"), library, name,
                      *(f"{1e3 * t:.2f} ms" for t in times), f"{times[0] / times[1]:.2f}")

    benchmark.pedantic(measure, rounds=1)
