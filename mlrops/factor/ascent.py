"""Monotone ascent of what a factor model's fit climbs: EM, with jumps that fall back to it."""

import math
from typing import Any, Protocol

import numpy as np

from .likelihood import State

__all__ = ["Ascent", "Jumps"]


class Jumps(Protocol):
    """What finds longer steps than EM's, and learns from steps that were taken."""

    def jump(self, ascent: "Ascent") -> bool:
        """Take a step uphill; False where none was found, and nothing has changed."""

    def learn(self, before: State, after: State) -> None:
        """See an EM step that was taken."""

    def memory(self) -> dict[str, Any]:
        """What the next step depends on: arrays and numbers."""

    def remember(self, memory: dict[str, Any]) -> None:
        """Go on with what `memory` gave."""


class Ascent:
    """Steps uphill from a first point; `state` is always the best point so far.

    Where `jumps` find no step, the plain EM step is taken, which cannot fall.  Without jumps all
    steps are plain EM steps.  What points, states and vectors are is the matter of the `surface`: a
    `LikelihoodSurface`, or one whose parts lie on the workers of a cluster.
    """

    def __init__(self, surface: Any, first: Any, jumps: Jumps | None = None):
        self.surface, self.jumps = surface, jumps
        self.n_evaluations, self.exhausted = 0, False
        self._free: list[Any] = []  # buffers that nothing lives in
        self._first = first
        self.state = self._mapped(self.evaluate(first))

    def _buffer(self) -> Any:
        return self._free.pop() if self._free else self._first.room()

    def evaluate(self, point: Any) -> State:
        """The E-step at a point."""
        self.n_evaluations += 1
        return self.surface.evaluate(point)

    def _mapped(self, state: State) -> State:
        """A state whose M-step has been taken."""
        if not state.is_mapped:
            state.map(self._buffer(), self.jumps is not None)
        return state

    def at(self, d: Any, share: float = 1.0) -> State | None:
        """The state at ``v + share d``; None where the model cannot be evaluated."""
        point = self.surface.move(self.state.point, d, share, self._buffer())
        try:
            trial = self.evaluate(point)
        except np.linalg.LinAlgError:
            self._free.append(point)
            return None
        if not math.isfinite(trial.objective):
            self.discard(trial)
            return None
        return trial

    def gradient(self, trial: State) -> Any:
        """The gradient at a trial, for which it needs the M-step."""
        return self._mapped(trial).gradient

    def accept(self, state: State) -> None:
        """Go to a state; the buffers of the old one that it does not live in are free again."""
        old, self.state = self.state, self._mapped(state)
        self._free += [p for p in (old.point, old.image) if not p.shares(state.point)]

    def discard(self, trial: State) -> None:
        """Free the buffers of a state that is not gone to."""
        held = [trial.point, trial.image] if trial.is_mapped else [trial.point]
        self._free += [p for p in held if not p.shares(self.state.image)]

    def advance(self) -> bool:
        """Take one step; False when not even EM's own step gains anything in this precision."""
        if self.jumps is not None and self.jumps.jump(self):
            return True
        trial = self.evaluate(self.state.image)
        if not math.isfinite(trial.objective):
            raise FloatingPointError(
                f"the log-likelihood is {trial.objective} after {self.n_evaluations} evaluations of"
                f" the EM map; the data's scale may be out of range")
        if trial.objective < self.state.objective:
            self.discard(trial)
            self.exhausted = True
            return False
        before = self.state
        if self.jumps is not None:
            self.jumps.learn(before, self._mapped(trial))
        self.accept(trial)
        return True
