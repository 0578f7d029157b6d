"""How messages list and count."""

import warnings

import numpy as np
import pytest

from mlrops import Diagonal, als_gls, fit_factor_model
from mlrops._common.wording import agree, counted, name_some


@pytest.mark.parametrize("n, noun, spec, said", [
    (0, "feature", "", "0 features"), (1, "feature", "", "1 feature"),
    (2, "feature", "", "2 features"), (np.int64(1), "entry", "", "1 entry"),
    (3, "entry", "", "3 entries"), (1, "more group", "", "1 more group"),
    (12345, "array", ",", "12,345 arrays"), (1.0, "feature", "g", "1 feature"),
])
def test_counts_agree_with_their_nouns(n, noun, spec, said):
    assert counted(n, noun, spec) == said


def test_words_agree_with_counts():
    assert [agree(n, "has", "have") for n in range(3)] == ["have", "has", "have"]


def test_long_lists_are_cut():
    assert name_some([]) == "" and name_some([3, 17]) == "3, 17"
    assert name_some(range(7)) == "0, 1, 2, 3, 4 and 2 more"
    assert name_some(range(7), limit=7) == "0, 1, 2, 3, 4, 5, 6"


def test_messages_about_one_of_a_kind():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="ranks must have 1 entry, one a level, got 2"):
        fit_factor_model(rng.standard_normal((9, 3)), (1, 1))
    with pytest.raises(np.linalg.LinAlgError, match="1 of 2 entries is zero"):
        Diagonal([0.0, 1.0]).solve([1.0, 1.0])
    Xs, Y = [np.ones((9, 1))] * 2, rng.standard_normal((9, 2))
    Y[:, 1] = 3
    with pytest.raises(ValueError, match=r"^1 equation is fitted exactly by its .*\(equation 1\)"):
        als_gls(Xs, Y, 0)


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_values_beyond_the_dtype_are_no_exact_fit(scale):
    rng = np.random.default_rng(1)
    Xs, Y = [rng.standard_normal((20, 2))] * 3, rng.standard_normal((20, 3))
    Y[:, 1] *= scale
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"^Y has 1 equation \(1\) with variances out of"):
            als_gls(Xs, Y, 1)
