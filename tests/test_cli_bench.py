"""``python -m mlrops bench``: the recursion against dense formulas, the races, the table."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from trees import close, dense_mlr, spread

import mlrops
from mlrops import Hierarchy
from mlrops.__main__ import main
from mlrops.cli.bench import command, operators, race, timing
from mlrops.cli.bench.command import COMPARISONS, HEAD, as_markdown, as_text
from mlrops.cli.bench.recursion import Recursion

PEERS = {name: c for name, c in COMPARISONS.items() if c.package is not None}
TREES = {
    "balanced": ([[0, 12], [0, 4, 8, 12], [0, 2, 4, 6, 8, 10, 12]], (2, 1, 1)),
    "unequal, two roots": ([[0, 3, 12], [0, 1, 3, 9, 12]], (1, 2)),
    "a level without factors": ([[0, 12], [0, 5, 12], [0, 5, 7, 12]], (2, 0, 1)),
    "single features": ([[0, 12], list(range(13))], (1, 1)),
    "one level": ([[0, 12]], (3,)),
}


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def figures(line):
    """The two times of a line of a table, in seconds, and their ratio."""
    found = re.search(r" ([\d.]+) (s|ms|us) +([\d.]+) (s|ms|us) +([\d.]+)  ", line)
    assert found, line
    a, unit, b, unit_b, ratio = found.groups()
    size = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
    return float(a) * size[unit], float(b) * size[unit_b], float(ratio)


# ---------------------------------------------------------------- the recursion in Python


@pytest.fixture(params=TREES)
def known(request):
    boundaries, ranks = TREES[request.param]
    rng = np.random.default_rng(1)
    h = Hierarchy(range(12), boundaries)
    F, D = rng.standard_normal((12, sum(ranks))), rng.uniform(0.4, 2.5, 12)
    factors = np.split(F, np.cumsum(ranks)[:-1], axis=1)
    return Recursion(h, ranks, F, D), h, factors, dense_mlr(h, factors, D), rng


@pytest.mark.parametrize("shape", [(12,), (12, 3)])
def test_recursion_is_the_dense_inverse(known, shape):
    S, _, _, dense, rng = known
    x = rng.standard_normal(shape)
    close(S.multiply(x), dense @ x, 1e-12)
    close(S.solve(x), np.linalg.solve(dense, x), 1e-12)
    assert S.logdet == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-12)


def test_recursion_takes_the_dense_em_step(known):
    S, h, factors, dense, rng = known
    N = 40
    Y = rng.multivariate_normal(np.zeros(12), dense, N)
    B = spread(h, factors)
    gain = B.T @ np.linalg.inv(dense)
    Z = Y @ gain.T
    moments = N * (np.eye(B.shape[1]) - gain @ B) + Z.T @ Z
    F, D = np.zeros_like(S.F), np.empty(12)
    for i in range(12):
        own = np.flatnonzero(B[i])  # factors of the groups around feature i, coarsest first
        F[i] = np.linalg.solve(moments[np.ix_(own, own)], Z[:, own].T @ Y[:, i])
        E = Y[:, i] - Z[:, own] @ F[i]
        spare = N * (np.eye(B.shape[1]) - gain @ B)[np.ix_(own, own)]
        D[i] = (E @ E + F[i] @ spare @ F[i]) / N
    found_F, found_D, loglik = S.em_step(Y)
    close(found_F, F, 1e-10)
    close(found_D, D, 1e-10)
    quad = np.einsum("ti,ti->", Y, np.linalg.solve(dense, Y.T).T) / N
    expected = -0.5 * (12 * np.log(2 * np.pi) + np.linalg.slogdet(dense)[1] + quad)
    assert loglik == pytest.approx(expected, rel=1e-12)


def test_recursion_shares_nothing_with_ours():
    source = Path(sys.modules[Recursion.__module__].__file__).read_text(encoding="utf-8")
    imported = re.findall(r"^(?:from|import) +(\S+)", source, re.MULTILINE)
    assert set(imported) == {"math", "numpy", "scipy.linalg"}


# ---------------------------------------------------------------- races


@pytest.fixture
def spend(monkeypatch):
    """A clock that goes on where it is told to, by seconds."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    return spend


def entrants(theirs, ours, compare=None):
    compare = compare or (lambda a, b: race.Agreement("equal", a == b))
    return race.Race("a problem", "a task", "a peer", theirs, ours, compare)


def test_both_are_called_in_turn():
    calls = []
    found = race.race(entrants(lambda: calls.append("a"), lambda: calls.append("b")), 0.0)
    assert calls == ["a", "b", "a", "b"]
    assert found.agreement == ("equal", True)


def test_the_best_round_counts(spend):
    pauses = iter([0.03, 0.0, 0.0, 0.03])  # theirs, ours, theirs, ours
    found = race.race(entrants(lambda: spend(next(pauses)), lambda: spend(next(pauses))), 0.0)
    assert found.theirs == found.ours == 0.0


def test_rounds_fill_the_budget(spend):
    calls = []
    race.race(entrants(lambda: calls.append(spend(0.06)), lambda: spend(0.06)), 0.5)
    assert 4 <= len(calls) <= 6


def test_ratios_of_calls_in_turn(spend):
    pauses = iter([4.0, 1.0, 2.0, 3.0, 1.0, 2.0])  # of two functions, in turn
    turns = timing.in_turn([lambda: spend(next(pauses))] * 2, rounds=3, steady=False)
    assert turns.times == [[4.0, 2.0, 1.0], [1.0, 3.0, 2.0]] and turns.best == [1.0, 1.0]
    assert turns.ratio == 1.0 and turns.median_ratio == 1.5


def test_the_best_of_some_rounds(spend):
    pauses, calls = iter([3.0, 1.0, 2.0, 1.0]), []
    best, answer = timing.best_of(lambda: calls.append(spend(next(pauses))) or len(calls), 2)
    assert best == 1.0 and answer == len(calls) == 2
    best, answer = timing.best_of(lambda: calls.append(spend(next(pauses))) or len(calls), 1, 2.5)
    assert best == 1.0 and answer == len(calls) == 4


def test_a_faster_peer_is_shown_as_faster(spend):
    row = command.measure(entrants(lambda: spend(0.002), lambda: spend(0.02)), 0.0)
    a, b, ratio = figures(as_text([row]).splitlines()[-1])
    assert a < b and ratio == pytest.approx(a / b, rel=0.06)


def test_slower_peers_have_ratios_above_one(spend):
    row = command.measure(entrants(lambda: spend(0.05), lambda: spend(0.01)), 0.0)
    a, b, ratio = figures(as_text([row]).splitlines()[-1])
    assert ratio == pytest.approx(a / b, rel=0.06) and ratio > 1


def test_answers_that_differ_have_no_ratio():
    row = command.measure(entrants(lambda: 1, lambda: 2), 0.0)
    assert not row.holds
    assert row.cells[3] == "" and row.cells[4].startswith("DIFFER: ")


def test_agreement_is_relative_to_the_largest_entry():
    a = np.array([1000.0, 1.0])
    assert race.same(1e-3, x=(a, a + [0, 1.0])) == ("x 1e-03", True)
    assert race.same(0.9e-3, x=(a, a + [0, 1.0])) == ("x 1e-03", False)
    assert not race.same(1e-3, x=(a, a), y=(a, a * [1, np.nan])).holds
    assert race.same(1e-9, logdet=(-5.0, -5.0)).holds
    assert not race.same(1e-9, logdet=(-5.0, 5.0)).holds


def test_a_higher_likelihood_agrees_and_a_lower_one_does_not():
    assert race.higher(-10.0, -9.0) == ("loglik -10.000000 -> -9.000000", True)
    assert not race.higher(-10.0, -10.1).holds
    assert not race.higher(-10.0, np.nan).holds


@pytest.mark.parametrize("seconds, text", [
    (0.0000604, "60.4 us"), (0.01234, "12.3 ms"), (0.4567, "457 ms"), (1.234, "1.23 s"),
    (12.34, "12.3 s"), (123.4, "123 s")])
def test_times_have_three_digits(seconds, text):
    assert command.seconds(seconds) == text


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_quick_prints_and_writes_every_row(capsys):
    assert main(["bench", "--quick", "-o", "bench.md"]) == 0
    out, err = capsys.readouterr()
    assert err == ""  # not a terminal: no progress
    text, markdown = out, Path("bench.md").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 130
    for shown in ("floor: F.T @ x, F @ z", "floor: F.T @ F", "floor: F.T @ Y.T, Z @ Y",
                  "recursion in Python", "SciPy's sparse LU", "dense Cholesky"):
        line = next(line for line in text.splitlines() if shown in line)
        a, b, ratio = figures(line)
        assert ratio == pytest.approx(a / b, rel=0.06)
        assert any(shown in line for line in markdown.splitlines() if line.startswith("| MLR"))
    missing = []
    for name, comparison in PEERS.items():
        try:
            comparison.load()
        except race.PeerError:
            missing.append(name)
            assert f"not installed: pip install {comparison.package}" in text
    for name, shown in {"sklearn": "FactorAnalysis, lapack", "alsgls": "als_gls",
                        "linearmodels": "linearmodels SUR", "pylops": "PyLops cg"}.items():
        assert (shown in text) == (name not in missing)
    assert "DIFFER" not in text and "failed" not in text
    assert f"mlrops {mlrops.__version__}, numpy {np.__version__}, scipy" in text.replace("\n", " ")
    head, rule, *rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in [head, rule, *rows]} == {len(HEAD) + 1}
    assert len(rows) >= 8 and rule == "| " + " | ".join(["---"] * len(HEAD)) + " |"


@pytest.mark.slow
def test_only_some_rows_with_their_notes_alone(capsys):
    assert main(["bench", "--quick", "--only", " dense,recursion"]) == 0
    out = capsys.readouterr().out
    assert out.index("recursion in Python") < out.index("dense Cholesky")
    assert "floor:" not in out and "sparse LU" not in out and "linearmodels:" not in out
    assert not Path("bench.md").exists()


def test_peers_that_are_not_installed(capsys, monkeypatch):
    roots = {comparison.module.split(".")[0] for comparison in PEERS.values()}

    class Missing:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name in roots:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    for name in (*roots, *(comparison.module for comparison in PEERS.values())):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(["bench", "--quick", "--only", ",".join(PEERS)]) == 0
    out = capsys.readouterr().out
    for package in ("scikit-learn", "alsgls", "linearmodels", "pylops"):
        assert re.search(rf"^{package}\n +not installed: pip install {package}$", out, re.M), out


def test_a_peer_that_lacks_a_package_of_its_own_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "alsgls.py").write_text("import no_such\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "alsgls", raising=False)
    row, = command.compare("alsgls", True)
    assert row.holds
    assert row.cells[-1].startswith("failed: ModuleNotFoundError: No module named 'no_such")


def test_a_peer_that_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / "alsgls.py").write_text("raise OSError('a library\\nis broken ' + 80 * 'x ')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "alsgls", raising=False)
    row, = command.compare("alsgls", True)
    assert row.cells[-1].startswith("failed: OSError: a library is broken x x x")
    assert len(row.cells[-1]) <= command.WIDTH and row.cells[-1].endswith("x ...")


def fake_alsgls(monkeypatch, **functions):
    module = ModuleType("alsgls")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "alsgls", module)


def simulated(N, N_test, K, p, k, seed):
    sim = mlrops.datasets.simulate_sur(K, p, k, n_samples=N, random_state=seed)
    return sim.Xs, sim.Y, None, None


def test_a_peer_that_has_changed(monkeypatch):
    fake_alsgls(monkeypatch)
    row, = command.compare("alsgls", True)
    assert row.cells == ("", "", "", "",
                         "failed: AttributeError: module 'alsgls' has no attribute ...")


def test_a_peer_that_fails_while_it_works(monkeypatch, capsys):
    def boom(Xs, Y, k):
        raise RuntimeError("no luck")

    fake_alsgls(monkeypatch, simulate_sur=simulated, als_gls=boom)
    assert main(["bench", "--quick", "--only", "alsgls"]) == 0
    assert re.search(r"^  fit +als_gls +failed: RuntimeError: no luck$", capsys.readouterr().out,
                     re.M)


def test_a_peer_whose_answer_cannot_be_read(monkeypatch):
    fake_alsgls(monkeypatch, simulate_sur=simulated, als_gls=lambda Xs, Y, k: None)
    row, = command.compare("alsgls", True)
    assert row.cells[0] == "als_gls" and row.cells[-1].startswith("failed: TypeError: ")


@pytest.mark.slow
def test_the_next_race_is_run_after_a_failure(monkeypatch):
    decomposition = pytest.importorskip("sklearn.decomposition")
    whole = decomposition.FactorAnalysis

    def half(*args, svd_method, **options):
        if svd_method == "lapack":
            raise RuntimeError("no luck")
        return whole(*args, svd_method=svd_method, **options)

    monkeypatch.setattr(decomposition, "FactorAnalysis", half)
    first, second = command.compare("sklearn", True)
    assert first.cells[-1] == "failed: RuntimeError: no luck" and first.holds
    assert second.cells[-1].startswith("loglik -123.") and second.cells[3]


def test_wrong_answers_are_an_error_of_the_command(monkeypatch, capsys):
    right = operators.invert
    monkeypatch.setattr(operators, "invert", lambda case: (right(case)[0] + 1, right(case)[1]))
    assert main(["bench", "--quick", "--only", "dense"]) == 2
    out, err = capsys.readouterr()
    assert "DIFFER: logdet" in out
    assert err == ("mlrops bench: error: answers differ or are missing: MLR, n = 400, R = 12, 40"
                   " leaves: factor + logdet + solve\n")


@pytest.mark.quick(2)
@pytest.mark.parametrize("wrong", ["solve", "F", "D", "loglik"])
def test_every_answer_is_compared(monkeypatch, wrong):
    right = Recursion.em_step

    def off(self, Y):
        F, D, loglik = right(self, Y)
        return F + (wrong == "F") * 1e-6, D + (wrong == "D") * 1e-6, loglik * (
            1 + (wrong == "loglik") * 1e-6)

    solve = Recursion.solve
    monkeypatch.setattr(Recursion, "em_step", off)
    if wrong == "solve":
        monkeypatch.setattr(Recursion, "solve", lambda self, b: solve(self, b) * (
            1 + (b.ndim == 1) * 1e-6))
    holds = [row.holds for row in command.compare("recursion", True)]
    assert holds == [wrong != "solve", wrong == "solve"]


@pytest.mark.parametrize("i, name", [(0, "multiply"), (1, "logdet"), (2, "solve")])
def test_answers_of_floors_are_compared(monkeypatch, i, name):
    if name == "logdet":
        make = Recursion.__init__

        def off(self, *args):
            make(self, *args)
            self.logdet *= 1 + 1e-6

        monkeypatch.setattr(Recursion, "__init__", off)
    else:
        right = getattr(Recursion, name)
        monkeypatch.setattr(Recursion, name, lambda self, x: right(self, x) * (1 + 1e-6))
    holds = [row.holds for row in command.compare("floor", True)]
    assert holds == [j != i for j in range(3)]


@pytest.mark.quick(1)
@pytest.mark.parametrize("wrong", [0, 1])
def test_answers_of_the_em_floor_are_compared(monkeypatch, wrong):
    right = operators.em_step
    monkeypatch.setattr(operators, "em_step", lambda *args: tuple(
        x * (1 + 1e-6 * (i == wrong)) for i, x in enumerate(right(*args))))
    row, = command.compare("em", True)
    assert not row.holds and "DIFFER" in row.cells[-1]


def test_our_own_references_must_not_fail(monkeypatch, capsys):
    def boom(*args):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(operators, "splu", lambda *args, **options: boom())
    assert main(["bench", "--quick", "--only", "sparse"]) == 2
    out, err = capsys.readouterr()
    assert "failed: LinAlgError: singular" in out and "missing" in err


def test_what_goes_wrong_with_us_is_not_blamed_on_a_peer(monkeypatch):
    def boom(case):
        raise FloatingPointError("ours")

    monkeypatch.setattr(operators, "invert", boom)
    with pytest.raises(FloatingPointError, match="ours"):
        command.compare("dense", True)


@pytest.mark.parametrize("only, message", [
    ("floor,sklern", "--only must name some of floor, em, recursion, sparse, dense, sklearn,"
                     " alsgls, linearmodels, pylops, got 'sklern'"),
    (" , ", "got ' , '"),
])
def test_rows_that_do_not_exist(capsys, only, message):
    assert main(["bench", "--only", only]) == 2
    assert message in capsys.readouterr().err


def test_output_is_refused_before_the_work(capsys, monkeypatch):
    monkeypatch.setattr(command, "compare", lambda *args: pytest.fail("the work has begun"))
    assert main(["bench", "-o", "no/such/bench.md"]) == 2
    assert "no/such/bench.md cannot be written: there is no folder" in capsys.readouterr().err


def test_progress_is_shown_on_terminals_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    command.compare("dense", True)
    shown = capsys.readouterr().err
    assert "\r" in shown and "dense: MLR, n = 400" in shown and "\n" not in shown


def test_bars_in_cells_do_not_break_markdown():
    row = command.Row("a | b", "c", ("d", "", "", "", "e"))
    assert as_markdown([row]).splitlines()[-1] == "| a \\| b: c | d |  |  |  | e |"


@pytest.mark.slow
def test_in_a_process_of_its_own():
    """ASCII only, so that every terminal can print it."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(
        [str(Path(mlrops.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-m", "mlrops", "bench", "--quick", "--only",
                           "floor,dense,linearmodels"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "dense Cholesky" in done.stdout
