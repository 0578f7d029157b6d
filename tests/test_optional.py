"""Without pandas: arrays go through, names say what they need."""

import sys

import numpy as np
import pytest

from mlrops import SUR, als_gls, fit_factor_model
from mlrops.datasets import load_french, load_grunfeld


@pytest.fixture
def no_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)


def system():
    rng = np.random.default_rng(0)
    Xs = [rng.standard_normal((30, 2)) for _ in range(3)]
    return Xs, rng.standard_normal((30, 3))


def test_arrays_need_no_pandas(no_pandas):
    Xs, Y = system()
    assert all(b.shape == (2,) for b in als_gls(Xs, Y, 1).bse)
    assert fit_factor_model(Y, 1).converged


def test_names_say_what_they_need(no_pandas):
    Xs, Y = system()
    fit = SUR({"abc"[j]: {"dependent": Y[:, j], "exog": X} for j, X in enumerate(Xs)}).fit(1)
    for ask in (lambda: fit.params, lambda: fit.bse, fit.to_frame, load_french().to_frame,
                load_grunfeld().to_frame, fit_factor_model(Y, 1).to_frame):
        with pytest.raises(ImportError, match=r'pip install "mlrops\[pandas\]"'):
            ask()
