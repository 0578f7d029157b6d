"""The table of rules for sums, products and multiples of operators; it knows no operator itself.

A rule is one line of mathematics.  It is kept under the name of an operation and the types of the
operands.  Operators look rules up here; modules that know the types enter them.  `closure` enters
the rules of sums, products and multiples.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, TypeVar

from .._common.wording import counted

__all__ = ["Operation", "rule"]

F = TypeVar("F", bound=Callable[..., Any])
Rule = Callable[..., Any]

OPERATIONS: dict[str, "Operation"] = {}


class Operation:
    """The rules of one operation; a call gives the result of the first rule that applies, or None.

    A rule is chosen by the types of the first `n_types` operands; other operands are passed on to
    it.  `swapped` turns a rule for operands of types (X, Y) into one for operands of types (Y, X).
    """

    def __init__(self, name: str, n_types: int = 1, swapped: Rule | None = None) -> None:
        self.n_types, self._swapped = n_types, swapped
        self._rules: dict[tuple[type, ...], tuple[int, bool, Rule]] = {}
        self._found: dict[tuple[type, ...], list[Rule]] = {}
        self._entered = 0
        OPERATIONS[name] = self

    def enter(self, types: tuple[type, ...], function: Rule) -> None:
        """Enter a rule, and its swapped one where none is written for those types."""
        self._entered += 1
        self._rules[types] = self._entered, False, function
        mirror = types[::-1]
        if self._swapped and (mirror not in self._rules or self._rules[mirror][1]):
            self._rules[mirror] = self._entered, True, self._swapped(function, types)
        self._found.clear()

    def __call__(self, *operands: Any) -> Any:
        if self._swapped is _flipped:  # in one order, so that both orders find the same rule
            operands = tuple(sorted(operands, key=_name))
        types = tuple(map(type, operands[:self.n_types]))
        if types not in self._found:
            self._found[types] = self._candidates(types)
        for function in self._found[types]:
            result = function(*operands)
            if result is not None:
                return result
        return None

    def _candidates(self, types: tuple[type, ...]) -> list[Rule]:
        """The rules for operands of these types, the most special one first."""
        named = {kind for key in self._rules for kind in key}
        lines = [[kind for kind in given.__mro__ if kind in named] for given in types]
        found = [(sum(line.index(kind) for line, kind in zip(lines, key, strict=True)), entry)
                 for key, entry in self._rules.items()
                 if all(kind in line for line, kind in zip(lines, key, strict=True))]
        return [function for _, (_, _, function) in sorted(found, key=lambda x: (x[0], x[1][:2]))]


def _name(operand: Any) -> tuple[str, str]:
    return type(operand).__qualname__, type(operand).__module__


def _flipped(function: Rule, types: tuple[type, ...]) -> Rule:
    """A + B = B + A."""
    return lambda A, B: function(B, A)


def _mirrored(function: Rule, types: tuple[type, ...]) -> Rule:
    """A B = (Bᵀ Aᵀ)ᵀ, where the transposes are of the types of the rule."""

    def mirrored(A: Any, B: Any) -> Any:
        if not (isinstance(B.T, types[0]) and isinstance(A.T, types[1])):
            return None
        result = function(B.T, A.T)
        return None if result is None else result.T

    return mirrored


# Sums, products and multiples.
ADD, MATMUL = Operation("add", 2, _flipped), Operation("matmul", 2, _mirrored)
SCALE = Operation("scale")
# The inverse and the transpose of an operator, its identity, an MLR as a GeneralMLR, and the
# operator that stands for an array.
INVERSE, TRANSPOSE, CONVERT, IDENTITY, GENERAL = map(
    Operation, ("inverse", "transpose", "convert", "identity", "general"))
# The parts of an operator that is a sum, and a low rank update in a form without an inverse.
SPLIT, REGULAR = Operation("split"), Operation("regular")


def rule(operation: str, *operands: type | tuple[type, ...]) -> Callable[[F], F]:
    """Enter the decorated function as the rule of an operation on operands of these types.

    Parameters
    ----------
    operation : {"add", "matmul", "scale"}
        ``"add"`` is ``A + B`` (and with a multiple ``A - B``), ``"matmul"`` is ``A @ B``, and
        ``"scale"`` is ``c * A``: its function takes A and a float c.
    *operands : type or tuple of types
        Subclasses of `StructuredOperator`, one for each operand: two for ``"add"`` and
        ``"matmul"``, one for ``"scale"``.  A tuple enters the rule for each of its types.

    Returns
    -------
    decorator
        It gives back the function, which returns an operator, or None where the rule does not
        apply; then the next rule is asked.

    Raises
    ------
    ValueError
        There is no such operation, or it has another number of operands.
    TypeError
        An operand is not a type.

    Notes
    -----
    The result does not depend on the order of operands where mathematics does not: a rule of
    ``"add"`` serves ``B + A``, and a rule of ``"matmul"`` serves the mirrored product,
    ``A B = (Bᵀ Aᵀ)ᵀ``.  Rules hold for subclasses, and the most special one is asked first: the
    one whose types are nearest to those of the operands, counted along their ``__mro__`` by the
    classes that have rules.  Of two that are equally near, the one that was entered first is
    asked first.  A rule that is entered again under the same types replaces the earlier one.
    Without a rule there are `Sum`, `Product` and `Scaled`.

    Examples
    --------
    >>> import numpy as np
    >>> from mlrops import Diagonal, StructuredOperator
    >>> from mlrops.operators import rule
    >>> class Shift(StructuredOperator):
    ...     def __init__(self, n, by):
    ...         self.by = by % n
    ...         super().__init__(np.float64, (n, n))
    ...     def _mul(self, x):
    ...         return np.roll(x, self.by, axis=0)
    ...     def _rmul(self, x):
    ...         return np.roll(x, -self.by, axis=0)
    ...     _solve = _rmul
    >>> @rule("matmul", Shift, Shift)
    ... def _(A, B):  # P^a P^b = P^(a + b)
    ...     return Shift(A.shape[0], A.by + B.by)
    >>> A = Shift(5, 2)
    >>> A @ A, (A @ A).by
    (<5x5 Shift, float64>, 4)
    >>> A @ Diagonal(np.ones(5))
    <5x5 Product, float64>
    """
    if operation not in OPERATIONS:
        raise ValueError(f"rule: there is no operation {operation!r}; rules of operators are for"
                         " 'add', 'matmul' and 'scale'")
    table = OPERATIONS[operation]
    choices = [kind if isinstance(kind, tuple) else (kind,) for kind in operands]
    for kind in (kind for choice in choices for kind in choice):
        if not isinstance(kind, type):
            raise TypeError(f"rule: operands are given by their types, got {kind!r}")
    if len(choices) != table.n_types:
        raise ValueError(f"rule: {operation!r} goes by {counted(table.n_types, 'type')}, got"
                         f" {len(choices)}")

    def enter(function: F) -> F:
        for types in product(*choices):
            table.enter(types, function)
        return function

    return enter
