"""What kernels do with short rows of numbers, by lanes: copies, inner products, tiles.

Rows are told by the arrays that they lie in and the places where they begin.
"""

import numpy as np

from ._jit import part
from ._lanes import V, add, axpy, fma, load, store, total, totals, zeros

_U = np.uint64  # for signed indices numba looks whether they count from the end
_ONE, _TWO, _THREE = _U(1), _U(2), _U(3)


@part
def copied(x, at, n, y, start):
    """Copy n numbers of x from place `at` on to y from `start` on."""
    j = _U(0)
    while j < n:
        store(y, start + j, n - j, load(x, at + j, n - j))
        j += V


@part
def cleared(x, at, n):
    """Make n numbers of x from `at` on zero."""
    j = _U(0)
    while j < n:
        store(x, at + j, n - j, zeros(x))
        j += V


@part
def taken(x, at, n, t):
    """t and n numbers of x from `at` on, in place of which zeros are left."""
    v = load(x, at, n)
    store(x, at, n, zeros(x))
    return add(v, t)


@part
def dot(x, at, y, start, n):
    """The inner product of n numbers of x from place `at` on with those of y from `start` on."""
    s = zeros(x)
    j = _U(0)
    while j < n:
        s = fma(s, load(x, at + j, n - j), load(y, start + j, n - j))
        j += V
    return total(s)


@part
def four_dots(x, at, Y, start, width, rows, n):
    """Inner products of n numbers of x with rows of Y, from place `start` on: four, or `rows`.

    Of fewer than four rows the last one stands for the others.
    """
    y1 = start + min(_ONE, rows - _ONE) * width
    y2 = start + min(_TWO, rows - _ONE) * width
    y3 = start + min(_THREE, rows - _ONE) * width
    s0 = zeros(x)
    s1 = zeros(x)
    s2 = zeros(x)
    s3 = zeros(x)
    j = _U(0)
    while j < n:
        m = n - j
        v = load(x, at + j, m)
        s0 = fma(s0, v, load(Y, start + j, m))
        s1 = fma(s1, v, load(Y, y1 + j, m))
        s2 = fma(s2, v, load(Y, y2 + j, m))
        s3 = fma(s3, v, load(Y, y3 + j, m))
        j += V
    return totals(s0, s1, s2, s3)


@part
def plus_four(t, f0, f1, f2, f3, X, x0, x1, x2, x3, n):
    """t and the sum of four rows of X, which begin at places x0 to x3, with weights f0 to f3.

    Loops of three or four rounds take longer to begin than to run.
    """
    t = axpy(t, f0, load(X, x0, n))
    t = axpy(t, f1, load(X, x1, n))
    t = axpy(t, f2, load(X, x2, n))
    return axpy(t, f3, load(X, x3, n))


@part
def store_rows(X, at, width, rows, n, t0, t1, t2, t3):
    """Store n numbers of each of four rows of X, which has `rows` of them from place `at` on."""
    store(X, at, n, t0)
    if rows > _ONE:
        store(X, at + width, n, t1)
    if rows > _TWO:
        store(X, at + _TWO * width, n, t2)
    if rows > _THREE:
        store(X, at + _THREE * width, n, t3)


@part
def tile(G, at, R, rows, n, t0, t1, t2, t3):
    """Add four rows of n numbers each, of which there are `rows`, to those of G from `at` on."""
    store(G, at, n, add(load(G, at, n), t0))
    if rows > _ONE:
        store(G, at + R, n, add(load(G, at + R, n), t1))
    if rows > _TWO:
        store(G, at + _TWO * R, n, add(load(G, at + _TWO * R, n), t2))
    if rows > _THREE:
        store(G, at + _THREE * R, n, add(load(G, at + _THREE * R, n), t3))
