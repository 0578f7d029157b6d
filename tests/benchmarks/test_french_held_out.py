"""Held-out log-likelihood of the French returns: a tree against a single level of equal storage.

The split of the six factors over the levels is chosen by `select_ranks` on the training months
alone, as `python -m mlrops demo` does.  Two ways to hold out: the last third of the months, and
each of five blocks in turn.
"""

import numpy as np
import pytest

from mlrops import fit_factor_model
from mlrops.cli.demo import TOTAL, choose, held_out
from mlrops.datasets import load_french

COLUMNS = ("held out", "criterion", "ranks chosen", "tree", "single level, rank 6", "difference")


def chosen_and_scored(train, test, hierarchy, criterion):
    """Ranks chosen on `train`, and the two average log-likelihoods of `test`."""
    selection = choose(train, hierarchy, criterion=criterion, shuffle=False)
    single = fit_factor_model(train, TOTAL)
    return selection.ranks, selection.fit.score(test), single.score(test)


@pytest.mark.parametrize("criterion", ["bic", "cv"])
def test_last_third(criterion, benchmark, record_in):
    data = load_french()
    months = 100 * data.excess
    cut = 2 * len(months) // 3
    ranks, tree, single = benchmark.pedantic(
        chosen_and_scored, (months[:cut], months[cut:], data.hierarchy, criterion), rounds=1)
    record_in("French returns, log-likelihood a month", COLUMNS, "last third", criterion,
              str(ranks), f"{tree:.3f}", f"{single:.3f}", f"{tree - single:+.3f}")


def test_five_blocks(benchmark, record_in):
    data = load_french()
    months = 100 * data.excess
    _, chosen, tree, single = zip(*benchmark.pedantic(
        lambda: list(held_out(data, months)), rounds=1), strict=True)
    ranks = [selection.ranks for selection in chosen]
    gap = np.subtract(tree, single)
    record_in("French returns, log-likelihood a month", COLUMNS, "five blocks in turn, mean", "bic",
              ", ".join(map(str, sorted(set(ranks)))), f"{np.mean(tree):.3f}",
              f"{np.mean(single):.3f}",
              f"{gap.mean():+.3f} ({', '.join(f'{g:+.2f}' for g in gap)})")
