"""Public calls that take data or what stands beside them, each with a labelled problem.

`CALLS` maps a public name ("fit_factor_model", "FactorModelResult.scores") to what `tests` do with
it: ``call(labelled)`` runs it on labelled input and returns something that can be compared once its
labels are sorted.  An entry has shuffled versions of its input, which must give the same, and
inputs with foreign labels, which must be refused with their names.

`NO_LABELS` lists public names that take nothing with labels.  A public name that is in neither
fails a test.
"""

from dataclasses import dataclass, field

__all__ = ["CALLS", "NO_LABELS", "Call", "add"]


@dataclass
class Call:
    """What is tried with one public name.

    Attributes
    ----------
    run : callable
        ``run(**inputs)`` makes the call.
    inputs : dict
        Name to a labelled input, in the order of the data.
    shuffled : list of dict
        Inputs in another order, which replace some of those; the outcome must be the same.
    foreign : list of (dict, str)
        Inputs with labels that do not fit, and a pattern that the ValueError must match.
    tol : float
        Relative difference that is allowed.
    """

    run: object
    inputs: dict
    shuffled: list = field(default_factory=list)
    foreign: list = field(default_factory=list)
    tol: float = 1e-9


CALLS = {}
NO_LABELS = {}


def add(name, **call):
    """Put one public name into the table."""
    assert name not in CALLS, f"{name} is in the table already"
    CALLS[name] = Call(**call)
