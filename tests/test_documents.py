"""The README: its examples print what it says they print, its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlrops

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
pytestmark = pytest.mark.skipif(not README.exists(), reason="needs a checkout")


def documents():
    return [README, *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def text_of(path):
    """Markdown of a document."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def examples():
    """(first line, code, what it prints) of the README's Python blocks."""
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text_of(README), re.S)
    return [pytest.param(code, printed, id=str(number))
            for number, (code, printed) in enumerate(blocks)] if README.exists() else []


def anchors(text):
    """Names of the headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("code, printed", examples())
def test_examples_of_the_readme(code, printed, tmp_path):
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True,
                         capture_output=True, check=False,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, run.stderr
    assert not run.stderr, run.stderr
    assert printed, "an example of the README shows what it prints"
    words, numbers = split(run.stdout)
    expected_words, expected_numbers = split(printed)
    assert words == expected_words, run.stdout
    np.testing.assert_allclose(numbers, expected_numbers, rtol=2e-3, atol=1e-9,
                               err_msg=run.stdout)


def split(text):
    """Words and numbers of a text, apart."""
    return re.sub(NUMBER, "#", text).split(), [float(x) for x in re.findall(NUMBER, text)]


def test_the_comparison_sees_other_numbers():
    assert split("a 1.5e-3 b -2") == (["a", "#", "b", "#"], [0.0015, -2.0])
    assert split("x = 1.0")[1] != split("x = 1.1")[1]


@pytest.mark.parametrize("path", documents() if README.exists() else [], ids=lambda p: p.name)
def test_no_dead_links(path):
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}"
        assert ROOT in file.parents, f"{path.name} links to {target}, outside of the repository"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(text_of(file)), f"{path.name} links to {target}"


def test_names_in_the_readme_exist():
    """A name that the README calls public is one."""
    text = text_of(README)
    imported = re.findall(r"^from (mlrops[\w.]*) import (.+)$", text, re.M)
    assert imported
    for module, names in imported:
        public = __import__(module, fromlist=["*"])
        for name in names.split("#")[0].split(","):
            assert hasattr(public, name.strip()), f"{module}.{name.strip()}"


def test_every_public_name_is_in_the_readme():
    text = text_of(README)
    missing = [name for name in mlrops.__all__ if not re.search(rf"\b{name}\b", text)]
    assert not missing
