"""Labels: what has names is matched by name, or refused with the names, in every public call."""

import inspect
import re

import labelled_factors as factors
import labelled_regressions as regressions
import pandas as pd
import pytest
from labelled_factors import CALLS, NAMES, NO_LABELS
from test_labels_regression import OneForeign, as_given, close, shuffled

import mlrops
from mlrops import plotting
from mlrops._common.stored import Stored
from mlrops.factor.conditional import Conditional
from mlrops.factor.rotation import RotatedLoadings
from mlrops.operators import StructuredOperator

# ---------------------------------------------------------------- the walk


def public_calls():
    """Public functions, and public methods of classes that are no operators."""
    for name in mlrops.__all__:
        x = getattr(mlrops, name)
        if inspect.isfunction(x):
            yield name
        elif inspect.isclass(x) and not issubclass(
                x, (StructuredOperator, mlrops.DistributedMLR, Warning)):
            yield from methods(x)
    for kind in (RotatedLoadings, Conditional):
        yield from methods(kind)
    yield from plotting.__all__


def methods(kind):
    return [f"{kind.__name__}.{name}" for name, x in inspect.getmembers(kind, callable)
            if not name.startswith("_") and name not in vars(Stored)]  # hooks of files


@pytest.mark.parametrize("name", sorted(public_calls()))
def test_every_public_call_is_in_a_table(name):
    known = {re.sub(",.*", "", key) for key in (*CALLS, *regressions.CALLS)}
    assert (name in known) != (name in NO_LABELS)


@pytest.mark.parametrize("name", CALLS)
def test_the_order_of_labels_does_not_matter(name):
    close(CALLS[name](shuffled), CALLS[name](as_given))


class OneForeignColumn(OneForeign):
    """The same for tables of samples, whose features have the names that must fit."""

    def __call__(self, x):
        self.left -= 1
        return x.rename(columns={x.columns[0]: self.label}) if self.left == -1 else x


def labelled_objects(name):
    """What a call is given with labels."""
    seen = []
    CALLS[name](lambda x: seen.append(x) or x)
    return seen


def is_samples(x):
    """Whether an object is a table of samples."""
    return (isinstance(x, pd.DataFrame) and set(x.columns) <= set(NAMES)
            and not set(x.index) <= set(NAMES))


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("plot")
                                  and name not in factors.NAMES_MAY_DIFFER])
def test_foreign_labels_are_refused_by_name(name):
    for number, x in enumerate(labelled_objects(name)):
        kind = OneForeignColumn if is_samples(x) else OneForeign
        with pytest.raises(ValueError, match="stranger|none for 1"):
            CALLS[name](kind(number))
