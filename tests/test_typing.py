"""Types of the public face: all of it is annotated, and mypy finds what users get wrong."""

import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from test_reference import ENTRIES

import mlrops

PAGES = Path(__file__).parent / "typing"
ROOT = Path(mlrops.__file__).parents[1]


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """``{page: {(line, code), ...}}`` of what mypy says of the pages, and its text."""
    pytest.importorskip("mypy")
    env = dict(os.environ)
    if ROOT.name != "site-packages":  # where the package would be found anyway
        env["MYPYPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--ignore-missing-imports",
         "--follow-imports=silent", "--no-error-summary", "--show-error-codes",
         f"--cache-dir={tmp_path_factory.mktemp('mypy')}", "good.py", "bad.py"],
        cwd=PAGES, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {"good.py": set(), "bad.py": set()}
    for page, line, code in re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout,
                                       re.MULTILINE):
        found[page].add((int(line), code))
    return found, done.stdout


def test_a_page_of_user_code_type_checks(errors):
    found, text = errors
    assert not found["good.py"], text


def test_mistakes_of_users_are_found_and_nothing_else(errors):
    lines = (PAGES / "bad.py").read_text(encoding="utf-8").splitlines()
    marked = {(number, match[1]) for number, line in enumerate(lines, 1)
              if (match := re.search(r"# error: ([\w-]+)$", line))}
    found, text = errors
    assert len(marked) > 30
    assert found["bad.py"] == marked, text


def test_the_page_of_user_code_runs(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip("pandas")
    runpy.run_path(str(PAGES / "good.py"))["keep_and_draw"](tmp_path)


@pytest.mark.parametrize("name", [
    name for name, (_, function, _) in ENTRIES.items() if inspect.isfunction(function)])
def test_everything_public_is_annotated(name):
    _, function, kind = ENTRIES[name]
    signature = inspect.signature(function)
    own = list(signature.parameters.values())
    lacks = [p.name for p in own if p.annotation is p.empty and p.name not in ("self", "cls")]
    if kind != "class" and signature.return_annotation is signature.empty:
        lacks.append("return")
    assert not lacks, f"{name} lacks types of {lacks}"
