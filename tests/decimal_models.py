"""Dense factor models in decimal arithmetic: what EM is held against where D is small."""

from decimal import Decimal

import numpy as np
from decimals import decimals as decimal
from trees import spread

TWO_PI = Decimal("6.28318530717958647692528676655900576839433879875021164194989")


def floats(x):
    """Back to double precision, an array or a number."""
    return np.asarray(x, float) if np.ndim(x) else float(x)


def inverse_and_logdet(S):
    """Of a positive definite array of decimals, by Gauss and Jordan."""
    n = len(S)
    both, log = np.concatenate([S, decimal(np.eye(n))], axis=1), Decimal(0)
    for i in range(n):
        pivot = both[i, i]
        log += pivot.ln()
        both[i] = both[i] / pivot
        others = np.arange(n) != i
        both[others] = both[others] - np.outer(both[others, i], both[i])
    return both[:, n:], log


def covariance(A):
    """(Σ, F spread out) of an MLR, feature order."""
    spread_out = decimal(spread(A.hierarchy, A.factors))
    S = spread_out @ spread_out.T
    S[np.diag_indices(len(S))] += decimal(A.D)
    return S, spread_out


def compact(A, G):
    """Of a derivative by F spread out (n, s), the entries that F (n, R) has."""
    h, out, at = A.hierarchy, [], 0
    for level, r in enumerate(A.ranks):
        groups = h.group_counts[level]
        block = G[:, at : at + groups * r].reshape(h.n, groups, r)
        out.append(block[np.arange(h.n), h.labels(level)])
        at += groups * r
    return np.concatenate(out, axis=1)


def likelihood(A, X, weights=None, total=None):
    """Average log-likelihood of samples X (n, N) about their mean, NaN where missing, and gradient.

    Returns (loglik, dF √D, dD D, dmean √D): as in the metric that units do not matter for.
    """
    S, F = covariance(A)
    n, N = X.shape
    weights = decimal(np.ones(N) if weights is None else weights)
    total = sum(weights) if total is None else Decimal(total)
    observed, loglik = ~np.isnan(X), Decimal(0)
    G, dmean = decimal(np.zeros((n, n))), decimal(np.zeros(n))
    patterns, owner = np.unique(observed.T, axis=0, return_inverse=True)
    for p, seen in enumerate(patterns):
        o, samples = np.flatnonzero(seen), np.flatnonzero(owner.ravel() == p)
        inverse, log = inverse_and_logdet(S[np.ix_(o, o)])
        w, x = weights[samples], decimal(X[np.ix_(o, samples)])
        y = inverse @ x
        loglik -= (sum(w) * (o.size * TWO_PI.ln() + log) + (x * y * w).sum()) / 2
        G[np.ix_(o, o)] += (y * w) @ y.T - sum(w) * inverse
        dmean[o] += y @ w
    d = decimal(A.D)
    root = np.array([x.sqrt() for x in d])
    dF = compact(A, G @ F) * root[:, None]
    return (floats(loglik / total), *(floats(x / total) for x in (
        dF, np.diagonal(G) * d / 2, dmean * root)))
