"""One run of the fit: steps uphill until a rule, a callback, the cap or the user stops them."""

import math
import signal
import threading
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .ascent import Ascent
from .em import Point

__all__ = ["TERMINATIONS", "Outcome", "Rules", "run"]

# Why a fit of a model may have stopped.
TERMINATIONS = "gradient", "loglik", "rounding", "max_iter", "callback", "interrupted"

# Updates whose gains must all be small: one small gain is no proof that the next is small, too.
SMALL_GAINS = 3
# Plain EM looks at the gradient every so often; accelerated, it has it anyway.
PLAIN_LOOKS = 10


class Rules(NamedTuple):
    """When a run stops."""

    tol: float
    gtol: float
    max_iter: int


class Outcome(NamedTuple):
    """Where a run stopped, in tree order."""

    point: Point
    gradient_norm: float
    trace: list
    termination: str
    n_evaluations: int


def independent_loglik(source):
    """Average log-likelihood a sample of independent features with the variances of the data."""
    shares = getattr(source, "shares", np.ones(source.variance.size))
    return -0.5 * shares @ (math.log(2 * math.pi) + 1 + np.log(source.variance))


def run(problem, first, accelerate, rules, progress=False, report=None, checkpoint=None):
    """Climb from a first point, or from where a checkpoint says; then `first` may be None.

    ``report(n_iter, state)`` is called for the start and after every update; StopIteration from it
    ends the run.  So does KeyboardInterrupt from anywhere, once there is a state to return.
    """
    saved = checkpoint.saved if checkpoint is not None else None
    ascent = Ascent(problem, first if saved is None else saved.point, accelerate)
    trace, termination, whole = [], None, True
    if saved is not None:  # the point's own entry comes back with its evaluation
        trace = list(saved.trace[:-1])
        saved.restore(ascent)
    # The gain over independent features does not depend on units, as the log-likelihood does.
    independent = independent_loglik(problem.source)
    with tqdm(total=rules.max_iter, initial=len(trace), desc="EM", disable=not progress) as bar:
        try:
            trace.append(ascent.state.loglik)
            if checkpoint is not None:
                checkpoint.begin(ascent, trace)
            while True:
                _show(ascent, trace, bar, report)
                scale = max(trace[-1] - independent, problem.tree.n / 2)
                termination = _reason(ascent, trace, rules, scale)
                if termination is not None:
                    break
                with unbroken():
                    whole = False
                    moved = not ascent.exhausted and ascent.advance()
                    if moved:
                        trace.append(ascent.state.loglik)
                    whole = True
                if not moved:
                    termination = "loglik"
                    break
                bar.update()
                if checkpoint is not None:
                    checkpoint.visit(ascent, trace)
        except StopIteration:
            termination = "callback"
        except KeyboardInterrupt:
            termination = "interrupted"
    if checkpoint is not None and whole:
        try:
            with unbroken():
                checkpoint.write(ascent, trace)
        except KeyboardInterrupt:
            termination = "interrupted"
    state = ascent.state
    return Outcome(state.point, state.gradient_norm, trace, termination, ascent.n_evaluations)


@contextmanager
def unbroken():
    """Hold Ctrl-C back until the block is through; a second one breaks it off.

    An update that is broken off leaves a state from which the same iterates do not follow.
    """
    asked = []

    def hold(number, frame):
        if asked:
            signal.default_int_handler(number, frame)
        asked.append(number)

    usual = (threading.current_thread() is threading.main_thread()
             and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    if usual:
        signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


def _show(ascent, trace, bar, report):
    change = trace[-1] - trace[-2] if len(trace) > 1 else math.nan
    bar.set_postfix(loglik=f"{trace[-1]:.6g}", change=f"{change:.1e}", refresh=False)
    if report is not None:
        report(len(trace) - 1, ascent.state)


def _reason(ascent, trace, rules, scale):
    """Why to stop here, or None."""
    n_iter = len(trace) - 1
    if ascent.accelerate or n_iter % PLAIN_LOOKS == 0:
        if ascent.state.gradient_norm <= rules.gtol:
            return "gradient"
    gains = np.diff(trace[-SMALL_GAINS - 1 :])
    if gains.size == SMALL_GAINS and gains.max() <= rules.tol * scale:
        return "loglik"
    return "max_iter" if n_iter >= rules.max_iter else None
