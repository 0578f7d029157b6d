"""Plain EM for (multilevel) factor models, written in terms of `MLR` operators only."""

import math

import numpy as np

from ..operators.mlr import MLR

__all__ = ["em_step", "iterate", "log_likelihood"]


def log_likelihood(covariance, total_quad, n_samples):
    """Average normal log-likelihood a sample, ``-½ (n log 2π + log det Σ + tr Σ⁻¹S)``."""
    n = covariance.shape[0]
    return -0.5 * (n * math.log(2 * math.pi) + covariance.logdet() + total_quad / n_samples)


def em_step(covariance, posterior, data, floor, out):
    """One M-step from a posterior: the next covariance and the features held at the floor.

    Given its new factors, the expected log-likelihood of a feature is unimodal in its variance, so
    clipping at the floor is the exact constrained maximum and EM stays monotone.
    """
    F, D = posterior.regress(data.sums_of_squares, data.n_samples, out)
    at_floor = floor >= D
    np.maximum(D, floor, out=D)
    after = MLR.from_compact(covariance.hierarchy, covariance.ranks, F, D,
                             copy=False, check_finite=False)
    return after, at_floor


def iterate(covariance, data, floor):
    """Yield (covariance, log-likelihood, features at the floor) of the EM iterates, start first.

    Each yielded covariance belongs to its log-likelihood.  Its arrays are written over two steps
    later, which saves the allocation of n R numbers a step: copy what is to be kept.
    """
    shape = (covariance.shape[0], sum(covariance.ranks))
    buffers = [
        (np.empty(shape, covariance.dtype), np.empty(shape[0], covariance.dtype)) for _ in range(2)]
    at_floor = covariance.D <= floor
    step = 0
    while True:
        posterior = covariance.posterior(data.X, check_finite=False)
        quad = posterior.total_inv_quad(data.sums_of_squares)
        yield covariance, log_likelihood(covariance, quad, data.n_samples), at_floor
        covariance, at_floor = em_step(covariance, posterior, data, floor, buffers[step % 2])
        step += 1
