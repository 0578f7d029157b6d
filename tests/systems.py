"""Systems of equations for the tests of `als_gls`, and their likelihood by dense formulas."""

import numpy as np
import scipy.stats

from mlrops import MLR, Hierarchy

TREE = Hierarchy([4, 0, 10, 7, 2, 9, 1, 11, 8, 3, 6, 5], [[0, 12], [0, 4, 12], [0, 4, 8, 12]])
SHARP = {"tol": 0.0, "gtol": 1e-8}


def draw(K=12, N=120, hierarchy=None, ranks=(2,), seed=0, widths=None):
    """(Xs, Y, truth): unequal numbers of regressors, the first one an intercept."""
    rng = np.random.default_rng(seed)
    h = hierarchy or Hierarchy.flat(K)
    signs = [rng.choice([-1.0, 1.0], (K, r)) for r in ranks]
    sigma = MLR(h, [s * rng.uniform(0.7, 1.5, s.shape) for s in signs], rng.uniform(1, 2, K))
    widths = [2 + j % 3 for j in range(K)] if widths is None else widths
    Xs = [rng.standard_normal((N, p)) for p in widths]
    for X in Xs:
        X[:, 0] = 1
    betas = [rng.standard_normal(p) for p in widths]
    Y = sigma.sample(N, random_state=rng)
    Y += np.stack([X @ b for X, b in zip(Xs, betas, strict=True)], axis=1)
    return Xs, Y, betas, sigma


def dense_loglik(Xs, Y, betas, sigma):
    E = Y - np.stack([X @ b for X, b in zip(Xs, betas, strict=True)], axis=1)
    return scipy.stats.multivariate_normal(np.zeros(len(sigma)), sigma).logpdf(E).mean()


def flat(params):
    return np.concatenate(params)
