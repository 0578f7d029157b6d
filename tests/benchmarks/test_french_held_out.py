"""Held-out log-likelihood of the French returns: a tree against a single level of equal storage.

The split of the six factors over the levels is chosen by `select_ranks` on the training months
alone.  Two ways to hold out: the last third of the months, and each of five blocks in turn.
"""

import warnings

import numpy as np
import pytest

from mlrops import ConvergenceWarning, fit_factor_model, select_ranks
from mlrops.datasets import load_french

COLUMNS = ("held out", "criterion", "ranks chosen", "tree", "single level, rank 6", "difference")
TOTAL = 6


def chosen_and_scored(train, test, hierarchy, criterion):
    """Ranks chosen on `train`, and the two average log-likelihoods of `test`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        selection = select_ranks(train, hierarchy, strategy="grid", total_rank=TOTAL, exact=True,
                                 criterion=criterion, shuffle=False, random_state=0)
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
    blocks = np.array_split(np.arange(len(months)), 5)

    def all_blocks():
        for block in blocks:
            train = np.delete(months, block, axis=0)
            yield chosen_and_scored(train, months[block], data.hierarchy, "bic")

    ranks, tree, single = zip(*benchmark.pedantic(lambda: list(all_blocks()), rounds=1),
                              strict=True)
    gap = np.subtract(tree, single)
    record_in("French returns, log-likelihood a month", COLUMNS, "five blocks in turn, mean", "bic",
              ", ".join(map(str, sorted(set(ranks)))), f"{np.mean(tree):.3f}",
              f"{np.mean(single):.3f}",
              f"{gap.mean():+.3f} ({', '.join(f'{g:+.2f}' for g in gap)})")
