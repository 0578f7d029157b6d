"""The command line agrees with itself: families, storage, and what the benchmarks print."""

import re
from functools import partial

import numpy as np
import pytest

import mlrops
from mlrops import allocate_ranks, partition
from mlrops.__main__ import main
from mlrops.cli import demo
from mlrops.cli.fit import _nearest
from mlrops.datasets import load_french


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def kernel(seed, kind, n=24):
    x = np.random.default_rng(seed).random((n, 2))
    d = np.linalg.norm(x[:, None] - x, axis=2)
    return {"exponential": np.exp(-4 * d), "gauss": np.exp(-20 * d**2),
            "nugget": np.exp(-2 * d) + 0.3 * np.eye(n)}[kind]


KERNELS = [(2, "gauss"), (4, "nugget"), (5, "gauss"), (6, "nugget")]  # a search of each ends badly


def fitted(capsys, *options):
    """Relative errors that the command prints, and what it says of storage."""
    assert main(["fit", "a.npy", "--total-rank", "5", "--n-levels", "2",
                 "--start", "uniform", "--output", "fit.npz", "--picture",
                 "fit.png", *options]) == 0
    out = capsys.readouterr().out
    errors = {label: float(error) for label, error in re.findall(
        r"^(multilevel|low rank \d+ plus diagonal) +([\d.e-]+)", out, re.MULTILINE)}
    return errors, re.search(r"^Storage: ([\d,]+) numbers", out, re.MULTILINE)[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed, kind", KERNELS)
def test_a_wider_family_does_not_end_higher(seed, kind, capsys):
    """Positive semidefinite matrices are symmetric ones, and these general ones."""
    np.save("a.npy", kernel(seed, kind))
    wide, narrow = fitted(capsys)[0], fitted(capsys, "--psd")[0]
    assert wide.keys() == narrow.keys() and len(wide) == 2
    for label, error in wide.items():
        assert error <= narrow[label]


@pytest.mark.slow
@pytest.mark.parametrize("seed, kind", KERNELS)
def test_families_are_nested(seed, kind):
    A = kernel(seed, kind)
    tree, _ = partition(A, 2, symmetric=True, random_state=0)
    fit = partial(allocate_ranks, A, 5, tree, tree, random_state=0)
    found = [_nearest(A, tree, tree, symmetric, psd, fit).error
             for symmetric, psd in ((False, False), (True, False), (True, True))]
    assert found[0] <= found[1] <= found[2]
    alone = [fit(symmetric=symmetric, psd=psd).error
             for symmetric, psd in ((False, False), (True, False), (True, True))]
    assert not alone[0] <= alone[1] <= alone[2] or found == alone


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--psd"], ["--no-symmetric"]])
@pytest.mark.parametrize("shape", [(24, 24), (24, 20)])
def test_one_figure_of_storage(options, shape, capsys):
    if shape[0] != shape[1] and options != []:
        pytest.skip("rectangular matrices are of no other family")
    np.save("a.npy", kernel(0, "exponential")[: shape[0], : shape[1]])
    numbers = fitted(capsys, *options)[1]
    assert main(["info", "fit.npz"]) == 0
    assert re.search(r"^storage +([\d,]+) numbers", capsys.readouterr().out, re.MULTILINE)[
        1] == numbers
    operator = mlrops.load("fit.npz")
    own = operator.left if operator._C is operator._B else (*operator.left, *operator.right)
    assert int(numbers.replace(",", "")) == sum(x.size for x in own)


@pytest.mark.slow
def test_the_demo_prints_what_the_readme_says(capsys):
    """One function chooses and scores for the demo and for the benchmark of the README."""
    data = load_french()
    demo._hold_out(data, 100 * data.excess)
    gain = float(re.search(r"mean gain ([+-][\d.]+) a month", capsys.readouterr().out)[1])
    assert gain == pytest.approx(0.513, abs=2e-3)
