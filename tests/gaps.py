"""Masks of missing cells of every kind: True is missing; functions of (shape, rng)."""

import numpy as np


def at_random(shape, rng, share=0.3):
    return rng.random(shape) < share


def monotone(shape, rng):
    """Each sample shows its first columns, as when panels start late."""
    return np.arange(shape[1]) >= rng.integers(1, shape[1] + 1, shape[0])[:, None]


def blocks(shape, rng):
    """Three sets of samples, each without its own part of the columns."""
    part = np.arange(shape[1]) * 3 // shape[1]
    return part == (np.arange(shape[0]) * 3 // shape[0])[:, None]


def one_cell(shape, rng):
    mask = np.zeros(shape, bool)
    mask[rng.integers(shape[0]), rng.integers(shape[1])] = True
    return mask


def all_but_one(shape, rng):
    """Half of the samples show one cell each."""
    mask = np.zeros(shape, bool)
    half = shape[0] // 2
    mask[:half] = np.arange(shape[1]) != rng.integers(shape[1], size=half)[:, None]
    return mask


def nothing(shape, rng):
    return np.zeros(shape, bool)


KINDS = (at_random, monotone, blocks, one_cell, all_but_one, nothing)
