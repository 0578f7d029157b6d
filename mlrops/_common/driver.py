"""The one driver of every fit: its steps, progress bar, callback, Ctrl-C and the words for its end.

A fit is an `Iteration`, which knows how to take a step and when to stop.  `drive` repeats the steps
and does everything that is the same for all fits.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .deprecated import old_attribute
from .progress import progress_bar
from .validate import check_number, check_rank

__all__ = ["CONVERGED", "OLD_TERMINATIONS", "TERMINATIONS", "Callback", "Iterate", "Iteration",
           "Run", "Stopping", "Watch", "current_termination", "drive", "whole_step"]

# Why a fit may have stopped.
TERMINATIONS = {
    "gradient": "the gradient is as small as `gtol` asks for",
    "tol": "steps gain no more than `tol` asks for, or nothing at all",
    "exact": "the error that is left is only rounding",
    "rounding": "in this precision no step gains anything, though the other rules do not hold",
    "max_iter": "`max_iter`, or the limit of an inner solver, is reached",
    "callback": "the callback raised StopIteration",
    "interrupted": "the user pressed Ctrl-C"}
# The reasons for which a fit counts as converged.
CONVERGED = "gradient", "tol", "exact"
# Words of version 0.1.0, which files of that version hold.
OLD_TERMINATIONS = {"loglik": "tol", "exchanges": "tol"}


def current_termination(word: Any) -> Any:
    """The word of this version for what a file of any version gives as the reason."""
    return OLD_TERMINATIONS.get(word, word) if isinstance(word, str) else word


@dataclass(frozen=True)
class Iterate:
    """Where a fit is; every fit gives it to its `callback`, at the start and after every iteration.

    Attributes
    ----------
    n_iter : int
        Iterations so far.
    objective : float
        What the fit climbs or descends: the average log-likelihood a sample less penalties, or the
        relative error of `fit_mlr` and `allocate_ranks`.
    loglik : float or None
        Average log-likelihood a sample, without penalties; None for fits that have none.
    covariance : operator or None
        The covariance that the fit has reached, where it fits one.
    params : list of ndarray, shapes (p_e,), or None
        Coefficients of each equation, where the fit has any.
    ranks : tuple of int or None
        Rank of each level.
    stage : str or None
        What a fit with several stages is at: "growth" (of columns, before the first iteration),
        "exchanges" (of rank between levels) or "refinement" (at given ranks).
    n_passes : float or None
        How often the matrix has been read, for `fit_mlr` and `allocate_ranks`.
    seconds : float or None
        Seconds since the fit began.

    Examples
    --------
    >>> from mlrops import fit_factor_model
    >>> from mlrops.datasets import simulate_factor_model
    >>> Y, seen = simulate_factor_model(8, 1, n_samples=50, random_state=0).Y, []
    >>> fit = fit_factor_model(Y, 1, callback=lambda iterate: seen.append(iterate.loglik))
    >>> bool((seen == fit.loglik_trace).all())
    True
    """

    n_iter: int
    objective: float
    loglik: float | None = None
    covariance: Any = None
    params: list[Any] | None = None
    ranks: tuple[int, ...] | None = None
    stage: str | None = None
    n_passes: float | None = None
    seconds: float | None = None

    error = old_attribute("error", "objective")


Callback: TypeAlias = Callable[[Iterate], object]


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """The rules by which a user lets a fit stop, checked."""

    tol: float = 1e-9
    gtol: float = 1e-5
    max_iter: int = 1000

    def __post_init__(self) -> None:
        check_number(self.tol, "tol", below=1)
        check_number(self.gtol, "gtol", below=1)
        check_rank(self.max_iter, "max_iter")

    def largest_small(self, scale: float) -> float:
        """The largest gain that is small: `tol` times `scale`."""
        return self.tol * scale

    def small_gains(self, trace: Sequence[float], scale: float, count: int) -> bool:
        """Whether each of the last `count` gains is small."""
        gains = np.diff(trace[-count - 1 :])
        return bool(gains.size == count and gains.max() <= self.largest_small(scale))


class Iteration:
    """What `drive` repeats.  It is always at the best parameters so far."""

    measure = "loglik"  # what the progress bar calls the objective

    @property
    def objective(self) -> float:
        """What steps improve."""
        raise NotImplementedError

    @property
    def loglik(self) -> float:
        """The same without penalties."""
        return self.objective

    _pulse: Callable[[], None] | None = None

    def pulse(self) -> None:
        """A sign of life within a long step: what is shown of the fit is brought up to date."""
        if self._pulse is not None:
            self._pulse()

    def shown(self) -> dict[str, object]:
        """What else the progress bar shows."""
        return {}

    def advance(self) -> str | None:
        """Take one step; or change nothing, and give the reason why no step can be taken."""
        raise NotImplementedError

    def reason(self, trace: list[float]) -> str | None:
        """Why to stop here, of `TERMINATIONS`, or None.  The driver itself counts to `max_iter`."""
        raise NotImplementedError

    def iterate(self, n_iter: int) -> Iterate:
        """What a callback gets."""
        raise NotImplementedError

    def restore(self) -> None:
        """Make the parameters whole again after a step that was broken off."""


@dataclass
class Run:
    """What `drive` returns; the lists have an entry for the start and for every step."""

    objectives: list[float]
    logliks: list[float]
    times: list[float]  # of `time.perf_counter`, when the entry was reached
    termination: str = ""

    @property
    def n_iter(self) -> int:
        return len(self.objectives) - 1

    @property
    def converged(self) -> bool:
        return self.termination in CONVERGED

    def add(self, iteration: Iteration) -> None:
        self.objectives.append(float(iteration.objective))
        self.logliks.append(float(iteration.loglik))
        self.times.append(time.perf_counter())


class Watch(NamedTuple):
    """Who watches a fit: a progress bar, a callback, and an observer such as a checkpoint.

    ``begin(iteration, run)`` of the observer is called before the first step, ``visit`` after every
    step, and ``finish`` at the end unless a step was broken off.
    """

    progress: bool = False
    callback: Callback | None = None
    observer: Any = None


UNWATCHED = Watch()


def drive(iteration: Iteration, max_iter: int, label: str, watch: Watch = UNWATCHED,
          earlier: Run | None = None) -> Run:
    """Take steps until a rule, the cap, the callback or the user stops them.

    Ctrl-C waits until the step is whole; a second one breaks it off.  Either way the iteration
    stands at the best parameters so far.  The callback gets an `Iterate` at the start and after
    every step; StopIteration from it ends the run.  `label` is what the progress bar calls the fit.
    An `earlier` run, which ended where the iteration stands, is continued.
    """
    observer, whole = watch.observer, True
    if earlier is None:
        run = Run([], [], [])
        run.add(iteration)
    else:
        run = Run([*earlier.objectives], [*earlier.logliks], [*earlier.times])
    with progress_bar(total=max_iter, initial=run.n_iter, desc=label,
                      disable=not watch.progress) as bar:
        try:
            if observer is not None:
                observer.begin(iteration, run)
            iteration._pulse = partial(_show, bar, iteration, run)
            while not run.termination:
                _show(bar, iteration, run)
                run.termination = (_report(iteration, run.n_iter, watch.callback)
                                   or iteration.reason(run.objectives)
                                   or ("max_iter" if run.n_iter >= max_iter else ""))
                if run.termination:
                    break
                with whole_step():
                    whole = False
                    run.termination = iteration.advance() or ""
                    if not run.termination:
                        run.add(iteration)
                    whole = True
                if not run.termination:
                    bar.update()
                    if observer is not None:
                        observer.visit(iteration, run)
        except KeyboardInterrupt:
            run.termination = "interrupted"
    iteration._pulse = None
    if not whole:
        iteration.restore()
        if iteration.objective != run.objectives[-1]:  # it gained something before
            run.add(iteration)
    elif observer is not None:
        try:
            with whole_step():
                observer.finish(iteration, run)
        except KeyboardInterrupt:
            run.termination = "interrupted"
    return run


def _show(bar: Any, iteration: Iteration, run: Run) -> None:
    """What the bar says; it is written anew where that is due."""
    change = run.objectives[-1] - run.objectives[-2] if run.n_iter else math.nan
    bar.set_postfix({iteration.measure: f"{run.objectives[-1]:.6g}", "change": f"{change:.1e}",
                     **iteration.shown()}, refresh=False)
    bar.update(0)


def _report(iteration: Iteration, n_iter: int, callback: Callback | None) -> str | None:
    """Show the callback where the fit is; the reason to stop if it raises StopIteration."""
    if callback is not None:
        try:
            callback(iteration.iterate(n_iter))
        except StopIteration:
            return "callback"
    return None


class _Hold:
    """A handler of Ctrl-C that keeps the first one for later."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.default_int_handler(number, frame)
        self.asked = True


@contextmanager
def whole_step() -> Iterator[None]:
    """Hold Ctrl-C back until the block is through; a second one breaks it off.

    A step that is broken off may leave a state from which the same iterates do not follow.  Within
    another such block, this one raises KeyboardInterrupt at its end if Ctrl-C came before.
    Handlers of others and other threads are left alone.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        usual = None
    hold = usual if isinstance(usual, _Hold) else _Hold()
    install = usual is signal.default_int_handler
    if install:
        signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        if install:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if hold.asked:
        raise KeyboardInterrupt
