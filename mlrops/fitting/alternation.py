"""Alternating least squares on sibling blocks: no residual is kept, and a half step is one pass.

With the right factors fixed, the best left ones solve normal equations along the path of each row;
their products Y and Gram matrices G come from a source of `blocks`.  What is left of A is known
from ``‖A‖² - 2 <Y, B> + <B G, B>``: below the square root of the precision it is lost in the
difference.

Each level carries a few more directions along, which follow the leading singular vectors of what is
left in its blocks: they say what one more column would gain, and where to begin it.
"""

import numpy as np

from .._common.typing import FloatArray
from .bcd import symmetrize
from .factors import Factors
from .pairs import put, take

__all__ = ["Alternation"]

# Directions beyond its factors that each level carries along.
EXTRA = 2
# Steps before the first column grows.
FIRST = 3
# By how much the right factors go further than least squares says, and the left ones after them.
RELAXATION = 1.5
# Turns of `make_symmetric`, and what each has to gain, as a share of the squared error.
TURNS, TURN_GAIN = 30, 1e-3
# Errors up to this many roots of the precision are rather found from a residual.
BLURRED = 64


class Alternation:
    """Factors on their way; after a step the left ones are the best for the right ones."""

    def __init__(self, blocks, pairs, dtype, rng):
        self.blocks, self.pairs, self.rng = blocks, pairs, rng
        self.n_passes = 0
        self.factors = Factors(pairs, (0,) * pairs.n_levels, dtype, rng)
        self._extra = {side: [self._random(side, EXTRA) for _ in range(pairs.n_levels)]
                       for side in ("rows", "cols")}
        self._ahead = None  # left factors that go beyond the best ones; none before a plain step
        self._eps = float(np.finfo(dtype).eps)
        self._squared = blocks.squared_norm

    @property
    def ranks(self):
        return self.factors.ranks

    @property
    def floor(self) -> float:
        """Relative errors that are rounding."""
        return 4 * self._eps**0.5

    @property
    def blurred(self) -> bool:
        """Whether the error is so small that it is rather found from a residual."""
        return self.error() < BLURRED * self._eps**0.5

    @property
    def rounding(self) -> float:
        """What rounding moves the squared error by: the more, the larger levels that cancel are."""
        parts = sum(self.factors.squared_norms()) / self.blocks.squared_norm
        return self.floor**2 * max(1.0, parts)

    def error(self) -> float:
        """``‖A - M‖ / ‖A‖``."""
        return float(np.sqrt(max(self._squared, 0) / self.blocks.squared_norm))

    # ---------------------------------------------------------------- steps

    def begin(self) -> None:
        """Find the directions along which the first column may grow."""
        for _ in range(FIRST):
            self.step()

    def step(self) -> None:
        """New right factors, then new left ones.

        After a plain step the following ones go on from where least squares ends.  One that would
        raise the error is taken back, and a plain one is taken in its place.
        """
        before, saved, old = self._squared, self.snapshot(), self._ahead
        self._half("right", 1.0 if old is None else RELAXATION)
        self._half("left", 1.0)
        if old is None:
            self._ahead = [*self.factors.left]
        elif self._squared > before:
            self.restore(saved)
            self._ahead = None
            self.step()
        else:
            self._ahead = [_beyond(x, y, RELAXATION)
                           for x, y in zip(old, self.factors.left, strict=True)]

    def _half(self, side, relaxation):
        """Give all levels their best factors on a side, and the extra directions a step."""
        left = side == "left"
        here, there = ("rows", "cols") if left else ("cols", "rows")
        fixed = self.factors.right if left else self._ahead or self.factors.left
        moving = self.factors.left if left else self.factors.right
        parts = [np.concatenate(x, axis=1) for x in zip(fixed, self._extra[there], strict=True)]
        Y, grams = self.blocks.normal(parts, there)
        self.n_passes += 1
        ranks = np.array(self.ranks)
        used = np.concatenate([np.arange(r + EXTRA) < r for r in ranks])
        inverse, (G, lengths) = grams.inverse(used, self._eps), grams.products(used)
        own, crossed = G[:, :, : len(G[0])], G[:, :, len(G[0]) :]
        best = np.concatenate(moving, axis=1).astype(np.float64)
        products, rest = Y[:, used].astype(np.float64), Y[:, ~used].astype(np.float64)
        squared = self.blocks.squared_norm
        for batch in self.pairs.batches[-1]:
            rows, g = getattr(batch, here), batch.groups
            x, y = take(best, rows), take(products, rows)
            # Directions that the factors do not have are left as they are.
            x = x + np.matmul(y - np.matmul(x, own[g]), inverse[g])
            put(best, rows, x)
            put(rest, rows, take(rest, rows) - np.matmul(x, crossed[g]))
            squared += _rise(x, y, own[g])
        self._squared = squared
        split = np.split(best.astype(self.factors.dtype), np.cumsum(ranks)[:-1], axis=1)
        for level, x in enumerate(split):
            moving[level] = _beyond(moving[level], x, relaxation)
        if left:
            self._best, self._inverse = best, inverse
            self._reckon(rest, lengths[:, ::EXTRA], crossed[:, :, ::EXTRA], inverse)
        else:
            self.factors.stale.update(range(len(ranks)))
        self._follow(here, rest)

    def _reckon(self, rest, length, crossed, inverse):
        """What the first extra direction of each level would gain, left factors answering.

        A row with y of what is left in a direction gains ``y² / s``, s the squared length of the
        direction beyond the factors of the path.
        """
        beyond = length - np.einsum("pij,pij->pj", crossed, np.matmul(inverse, crossed))
        seen = np.square(rest[:-1, ::EXTRA])
        seen = np.add.reduceat(seen, self.pairs.rows.boundaries[-1][:-1], axis=0)
        usable = beyond > np.sqrt(self._eps) * length
        self._gains = np.where(usable, seen / np.where(usable, beyond, 1), 0).sum(axis=0)

    def _follow(self, side, rest):
        """Extra directions: the principal axes of what is left in those of the other side."""
        found = []
        for level in range(self.pairs.n_levels):
            starts = getattr(self.pairs, side).boundaries[level]
            x = rest[:-1, EXTRA * level : EXTRA * (level + 1)]
            squares = np.add.reduceat(x[:, :, None] * x[:, None, :], starts[:-1], axis=0)
            lam, P = np.linalg.eigh(squares)
            seen = lam > self._eps**2 * self.blocks.squared_norm
            P = P * np.where(seen, 1 / np.sqrt(np.where(seen, lam, 1)), 0)[:, None, :]
            turned = np.zeros((len(rest), EXTRA), self.factors.dtype)
            turned[:-1] = np.matmul(
                x[:, None, :], np.repeat(P[:, :, ::-1], np.diff(starts), axis=0))[:, 0]
            found.append(turned)
        self._extra[side] = found

    # ---------------------------------------------------------------- columns

    def gains(self) -> FloatArray:
        """What one more column at each level lowers the squared error by, at once, (L,)."""
        return self._gains

    def losses(self) -> dict[int, FloatArray]:
        """What dropping a column raises the squared error by, (p_l, r_l) for each level with any.

        The right factors stay, all other left factors answer: a row with coefficient b in the
        column adds ``b² / (G⁻¹)_cc``, G the Gram matrix of its path.
        """
        diagonal = np.einsum("pii->pi", self._inverse)
        rise = np.add.reduceat(np.square(self._best[:-1]), self.pairs.rows.boundaries[-1][:-1],
                               axis=0)
        rise = np.divide(rise, diagonal, out=np.zeros_like(rise), where=diagonal > 0)
        last, found, at = self.pairs.rows.boundaries[-1][:-1], {}, 0
        for level, r in enumerate(self.ranks):
            if r:
                starts = np.searchsorted(last, self.pairs.rows.boundaries[level][:-1])
                found[level] = np.add.reduceat(rise[:, at : at + r], starts, axis=0)
            at += r
        return found

    def add(self, level: int) -> None:
        """One more column: left the first of the level's extra directions, right still zero."""
        self._ahead = None
        for side, factors in (("rows", self.factors.left), ("cols", self.factors.right)):
            extra = self._extra[side][level]
            factors[level] = np.concatenate(
                [factors[level], extra[:, :1] if side == "rows" else 0 * extra[:, :1]], axis=1)
            self._extra[side] = [*self._extra[side]]
            self._extra[side][level] = np.concatenate(
                [extra[:, 1:], self._random(side, 1)], axis=1)

    def drop(self, level: int, losses: FloatArray) -> None:
        """One column less: of each group that of least loss (p_l, r_l)."""
        self._ahead = None
        self.factors.drop(level, losses)

    def _random(self, side, k):
        n = getattr(self.pairs, side).n
        x = np.zeros((n + 1, k), self.factors.dtype)
        x[:-1] = self.rng.standard_normal((n, k)) / np.sqrt(n)
        return x

    # ---------------------------------------------------------------- there and back

    def load(self, operator):
        """Go on from the factors of an operator; its left ones need not be the best ones."""
        self.factors.load(operator)
        self._meet()

    def make_symmetric(self) -> None:
        """Leave factors of symmetric blocks: the nearest ones, and least squares, by turns.

        Levels of a fit that is nearly symmetric need not be: what is odd in one, another makes up
        for.  A few turns bring them together.
        """
        least, best = np.inf, None
        for _ in range(TURNS):
            symmetrize(self.factors)
            self._meet()
            if self._squared > (1 - TURN_GAIN) * least:
                break
            least, best = self._squared, self.factors.snapshot()
            self._half("left", 1.0)
        if best is not None:
            self.factors.restore(best)
            self._squared = least

    def _meet(self):
        """Find the error of factors that came from elsewhere."""
        self._ahead, left = None, np.concatenate(self.factors.left, axis=1).astype(np.float64)
        Y, grams = self.blocks.normal(self.factors.right, "cols")
        self.n_passes += 1
        G, _ = grams.products(np.ones(left.shape[1], bool))
        self._squared = self.blocks.squared_norm + sum(
            _rise(take(left, b.rows), take(Y, b.rows), G[b.groups]) for b in self.pairs.batches[-1])

    def snapshot(self):
        """What `restore` needs; arrays are replaced, never written to, so nothing is copied."""
        return self.factors.snapshot(), dict(self._extra), self._ahead, self._squared

    def restore(self, saved):
        """Put factors from a snapshot back."""
        factors, extra, self._ahead, self._squared = saved
        self.factors.restore(factors)
        self._extra = dict(extra)

    recall = restore


def _rise(x, y, G):
    """``<x G, x> - 2 <y, x>``: the squared error, but for ‖A‖²."""
    return float(np.einsum("gij,gij->", x, np.matmul(x, G) - 2 * y, dtype=np.float64))


def _beyond(old, new, relaxation):
    return new if relaxation == 1 else old + relaxation * (new - old)
