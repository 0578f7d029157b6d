"""The table of rules: open to types of one's own, free of the order of operands, special first."""

import numpy as np
import pytest
from market import market

from mlrops.operators import (
    Dense,
    Diagonal,
    Identity,
    LowRank,
    Product,
    Scaled,
    StructuredOperator,
    Sum,
    check_operator,
    rule,
)
from mlrops.operators.rules import ADD, MATMUL, SCALE, Operation


@pytest.fixture(autouse=True)
def _rules_of_this_test(monkeypatch):
    """What a test enters is gone after it."""
    for operation in (ADD, MATMUL, SCALE):
        monkeypatch.setattr(operation, "_rules", dict(operation._rules))
        monkeypatch.setattr(operation, "_found", {})


class Shift(StructuredOperator):
    """The cyclic shift by a number of places, times a factor; unsymmetric."""

    def __init__(self, n, by, factor=1.0):
        self.by, self.factor = by % n, factor
        super().__init__(np.float64, (n, n))

    def _mul(self, x):
        return self.factor * np.roll(x, self.by, axis=0)

    def _rmul(self, x):
        return self.factor * np.roll(x, -self.by, axis=0)

    def _solve(self, b):
        return np.roll(b, -self.by, axis=0) / self.factor

    def _transpose(self):
        return type(self)(self.shape[0], -self.by, self.factor)


class Rotation(Shift):
    """A subclass."""


A, B, D = Shift(5, 2), Shift(5, 1, 3.0), Diagonal(np.arange(1.0, 6))


def equal(result, dense):
    np.testing.assert_allclose(result.toarray(), dense, rtol=1e-14, atol=1e-14)
    assert check_operator(result).passed


def test_a_subclass_that_gives_its_product_has_all_the_rest():
    assert type(A + B) is Sum and type(A @ B) is Product and type(2 * A) is Scaled
    assert check_operator(A).passed and check_operator(A.inv()).passed


def test_a_rule_serves_both_orders_of_a_sum():
    @rule("add", Shift, Diagonal)
    def _(A, D):
        assert isinstance(A, Shift) and isinstance(D, Diagonal)
        return Dense(A.toarray() + np.diag(D.d))

    dense = A.toarray() + D.toarray()
    for result in (A + D, D + A):
        assert type(result) is Dense
        equal(result, dense)
    equal(A - D, A.toarray() - D.toarray())
    equal(D - A, D.toarray() - A.toarray())
    assert type(A + Identity(5)) is Dense, "a rule holds for subclasses"


def test_a_rule_serves_the_mirrored_product():
    seen = []

    @rule("matmul", Diagonal, Shift)
    def _(D, A):  # rows of A times d
        seen.append(D)
        return Dense(D.d[:, None] * A.toarray())

    for left, right in ((D, A), (A, D)):
        result = left @ right
        assert type(result) is Dense and seen.pop() is D
        equal(result, left.toarray() @ right.toarray())
    assert type(A @ Identity(5)) is Shift, "the identity comes first"


def test_a_mirrored_rule_needs_transposes_of_its_types():
    class Foreign(Shift):
        _transpose = StructuredOperator._transpose  # a Transposed, of which no rule knows

    @rule("matmul", Foreign, Diagonal)
    def _(A, D):
        return LowRank(A.toarray() * D.d, np.eye(5))

    foreign = Foreign(5, 2)
    assert type(foreign @ D) is LowRank and type(D @ foreign) is Product
    equal(D @ foreign, D.toarray() @ foreign.toarray())


def test_multiples():
    rule("scale", Shift)(lambda A, c: Shift(5, A.by, c * A.factor))
    assert type(2 * A) is type(A / 2) is type(-A) is Shift and (-A).factor == -1
    equal(B * 2, 2 * B.toarray())
    assert 1 * A is A


def test_the_most_special_rule_is_asked_first():
    asked = []

    def enter(name, *types, answer=None):
        rule("matmul", *types)(lambda A, B: asked.append(name) or answer)

    enter("any", StructuredOperator, Shift)
    enter("both special", Rotation, Rotation, answer=D)
    enter("both", Shift, Shift)
    enter("left special", Rotation, Shift)
    R = Rotation(5, 1)
    assert R @ R is D and asked == ["both special"]
    asked.clear()
    rule("matmul", Rotation, Rotation)(lambda A, B: None)
    assert type(R @ R) is Product  # all decline
    assert asked == ["left special", "left special", "both", "any", "any"]
    asked.clear()
    _ = A @ A
    assert asked == ["both", "any", "any"]


def test_classes_without_rules_do_not_count():
    class Mixin:
        pass

    class Mixed(Mixin, Rotation):
        pass

    rule("matmul", Mixed, Diagonal)(lambda A, D: Dense(A.toarray() * D.d))
    A = Mixed(5, 1)
    assert A @ Identity(5) is A and Identity(5) @ A is A
    assert type(A @ D) is type(D @ A) is Dense


def test_equally_special_rules_in_the_order_in_which_they_were_entered():
    class Left(Shift):
        pass

    class Right(Shift):
        pass

    asked = []
    for name, types in (("first", (Left, Shift)), ("second", (Shift, Right))):
        rule("add", *types)(lambda A, B, name=name: asked.append((name, type(A), type(B))))
    left, right = Left(5, 1), Right(5, 2)
    assert type(left + right) is type(right + left) is Sum
    assert asked == [("first", Left, Right), ("second", Left, Right)] * 2
    asked.clear()
    rule("add", StructuredOperator, Shift)(lambda A, B: asked.append((type(A), type(B))))
    _ = left + right
    first, asked[:] = list(asked), []
    _ = right + left
    assert asked == first, "a rule that applies both ways is asked in one order"
    assert first[2:] == [(Left, Right), (Right, Left)]


def test_an_earlier_rule_is_replaced_and_a_written_one_beats_a_mirrored_one():
    rule("matmul", Shift, Diagonal)(lambda A, D: Dense(A.toarray() * D.d))
    rule("matmul", Diagonal, Shift)(lambda D, A: LowRank(D.toarray(), A.toarray().T))
    assert type(A @ D) is Dense and type(D @ A) is LowRank
    rule("matmul", Shift, Diagonal)(lambda A, D: Scaled(D, 2.0))
    assert type(A @ D) is Scaled and type(D @ A) is LowRank


def test_a_tuple_enters_a_rule_for_each_of_its_types():
    rule("add", Shift, (Diagonal, LowRank))(lambda A, B: Dense(A.toarray() + B.toarray()))
    for other in (D, LowRank(np.ones((5, 1)))):
        assert type(A + other) is type(other + A) is Dense


@pytest.mark.parametrize("arguments, error, message", [
    (("subtract", Shift, Shift), ValueError, "no operation 'subtract'.*'add', 'matmul' and 'sc"),
    (("add", Shift), ValueError, "'add' goes by 2 types, got 1"),
    (("scale", Shift, float), ValueError, "'scale' goes by 1 type, got 2"),
    (("add", Shift, "Diagonal"), TypeError, "operands are given by their types, got 'Diagonal'"),
    (("add", A, A), TypeError, "operands are given by their types"),
])
def test_bad_rules(arguments, error, message):
    with pytest.raises(error, match=message):
        rule(*arguments)


def test_an_operation_of_ones_own():
    cost = Operation("cost of a product")
    rule("cost of a product", StructuredOperator)(lambda A: A.shape[0] * A.shape[1])
    rule("cost of a product", Diagonal)(lambda A: A.shape[0])
    assert (cost(A), cost(Identity(5)), cost(3)) == (25, 5, None)


@pytest.mark.parametrize("ruled", [False, True], ids=["without rules", "with rules"])
def test_with_every_operator_of_the_market(ruled):
    if ruled:
        rule("add", Shift, StructuredOperator)(lambda A, B: Dense(A.toarray() + B.toarray()))
        rule("matmul", Shift, StructuredOperator)(lambda A, B: Dense(A.toarray() @ B.toarray()))
    for name, B, dense in market():
        if len(set(dense.shape)) > 1:
            continue
        A = Shift(len(dense), 1)
        assert type(A + B) is type(B + A), name
        assert type((A @ B).T) is type(B.T @ A.T), name
        for result, expected in ((A + B, A.toarray() + dense), (B - A, dense - A.toarray()),
                                 (A @ B, A.toarray() @ dense), (B @ A, dense @ A.toarray())):
            np.testing.assert_allclose(result.toarray(), expected, rtol=1e-9, atol=1e-9)
