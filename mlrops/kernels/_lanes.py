"""Short vectors of numbers, "lanes", that a compiled loop computes with as one.

Loops over the few columns of a small node are over before a compiler's own vector loop begins.  So
kernels say themselves what goes together: `load` a vector, combine it with others, `store` it.  A
vector has four numbers whatever the processor, which takes as many registers for it as it needs.

Arrays are C-contiguous; places in them are counted in numbers from the first one, unsigned.  Of the
last vector of a row only `n` lanes belong to it: the others are zero when it is loaded, and stay as
they are in memory when it is stored.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_cast, models, register_model

__all__ = ["V", "add", "axpy", "fma", "leading", "load", "product", "store", "store_column",
           "times", "total", "totals", "zeros"]

COUNT = 4
V = np.uint64(COUNT)  # the same for kernels, which count without signs
_FAST = ("contract",)  # a product and a sum may be one instruction; their order is as written
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_U64: Any = types.uint64


class Lanes(types.Type):
    """The type of a vector of real numbers, as numba knows it."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        number = ir.DoubleType() if dtype.bitwidth == 64 else ir.FloatType()
        self.vector = ir.VectorType(number, COUNT)
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.vector)


@lower_cast(Lanes, Lanes)
def _converted(context, builder, given, wanted, v):
    """A vector of one precision where one of the other is asked for, as numbers are converted."""
    narrow = given.dtype.bitwidth > wanted.dtype.bitwidth
    return (builder.fptrunc if narrow else builder.fpext)(v, wanted.vector)


def _constant(number: Any, values: Any) -> Any:
    """A vector of constants."""
    return ir.Constant(ir.VectorType(number, COUNT), [ir.Constant(number, v) for v in values])


def _spread(builder: Any, number: Any) -> Any:
    """A vector of which each lane is `number`."""
    blank = ir.Constant(ir.VectorType(number.type, COUNT), ir.Undefined)
    first = builder.insert_element(blank, number, _I32(0))
    return builder.shuffle_vector(first, blank, _constant(_I32, [0] * COUNT))


def _first(builder: Any, n: Any) -> Any:
    """Which lanes are among the first n."""
    return builder.icmp_unsigned("<", _constant(_I64, range(COUNT)), _spread(builder, n))


def _place(context: Any, builder: Any, kind: Any, x: Any, at: Any, vector: Any) -> Any:
    """Pointer to the vector at place `at` of an array."""
    data = context.make_array(kind)(context, builder, x).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _masked(builder: Any, name: str, vector: Any, n: Any, *args: Any) -> Any:
    """Call LLVM's masked load or store for the first n lanes.

    The mask comes last, but for what a load gives the other lanes.
    """
    mask = _first(builder, n)
    rest = [_constant(vector.element, [0.0] * COUNT)] if name == "load" else []
    args = (*args, mask, *rest)
    short = f"v{COUNT}f{64 if isinstance(vector.element, ir.DoubleType) else 32}"
    signature = ir.FunctionType(vector if rest else ir.VoidType(), [arg.type for arg in args])
    function = cgutils.get_or_insert_function(
        builder.module, signature, f"llvm.masked.{name}.{short}.p0{short}")
    return builder.call(function, args)


def _whole(builder: Any, n: Any) -> Any:
    """Branches for a vector of which all lanes belong to the row, and for one of fewer."""
    return builder.if_else(builder.icmp_unsigned(">=", n, _I64(COUNT)), likely=True)


@intrinsic
def load(typingctx, x, at, n):
    """The vector at place `at` of the array x, of which n lanes or more belong to the row."""
    kind = Lanes(x.dtype)

    def code(context, builder, signature, args):
        vector, (x, at, n) = kind.vector, args
        place = _place(context, builder, signature.args[0], x, at, vector)
        bytes_ = kind.dtype.bitwidth // 8
        with _whole(builder, n) as (whole, part):
            with whole:
                all_lanes = builder.load(place, align=bytes_)
                behind_whole = builder.block
            with part:
                some = _masked(builder, "load", vector, n, place, _I32(bytes_))
                behind_part = builder.block
        found = builder.phi(vector)
        found.add_incoming(all_lanes, behind_whole)
        found.add_incoming(some, behind_part)
        return found

    return kind(x, _U64, _U64), code


@intrinsic
def store(typingctx, x, at, n, v):
    """x[at : at + n] = v, of at most as many numbers as v has lanes."""
    kind = Lanes(x.dtype)

    def code(context, builder, signature, args):
        vector, (x, at, n, v) = kind.vector, args
        place = _place(context, builder, signature.args[0], x, at, vector)
        bytes_ = kind.dtype.bitwidth // 8
        with _whole(builder, n) as (whole, part):
            with whole:
                builder.store(v, place, align=bytes_)
            with part:
                _masked(builder, "store", vector, n, v, place, _I32(bytes_))
        return context.get_dummy_value()

    return types.none(x, _U64, _U64, kind), code


@intrinsic
def store_column(typingctx, x, at, stride, n, v):
    """x[at], x[at + stride], … = n lanes of v, which the compiler would do by slow scatters."""
    def code(context, builder, signature, args):
        x, at, stride, n, v = args
        data = context.make_array(signature.args[0])(context, builder, x).data
        for lane in range(COUNT):
            with builder.if_then(builder.icmp_unsigned(">", n, _I64(lane))):
                place = builder.add(at, builder.mul(stride, _I64(lane)))
                builder.store(builder.extract_element(v, _I32(lane)), builder.gep(data, [place]))
        return context.get_dummy_value()

    return types.none(x, _U64, _U64, _U64, Lanes(x.dtype)), code


@intrinsic
def zeros(typingctx, x):
    """A vector of zeros of the array's type."""
    kind = Lanes(x.dtype)

    def code(context, builder, signature, args):
        return _constant(kind.vector.element, [0.0] * COUNT)

    return kind(x), code


@intrinsic
def leading(typingctx, v, n):
    """The first n lanes of a vector, and zeros."""
    def code(context, builder, signature, args):
        v, n = args
        return builder.select(_first(builder, n), v, _constant(v.type.element, [0.0] * COUNT))

    return v(v, _U64), code


@intrinsic
def add(typingctx, v, w):
    """v + w."""
    return v(v, v), lambda context, builder, signature, args: builder.fadd(*args, flags=_FAST)


def _fused(builder, v, a, b):
    return builder.fadd(v, builder.fmul(a, b, flags=_FAST), flags=_FAST)


@intrinsic
def fma(typingctx, v, a, b):
    """v + a b, lane by lane."""
    return v(v, v, v), lambda context, builder, signature, args: _fused(builder, *args)


@intrinsic
def product(typingctx, v, w):
    """v w, lane by lane."""
    return v(v, v), lambda context, builder, signature, args: builder.fmul(*args, flags=_FAST)


@intrinsic
def axpy(typingctx, v, s, w):
    """v + s w for a number s."""
    def code(context, builder, signature, args):
        v, s, w = args
        return _fused(builder, v, _spread(builder, s), w)

    return v(v, v.dtype, v), code


@intrinsic
def times(typingctx, s, v):
    """s v for a number s."""
    def code(context, builder, signature, args):
        s, v = args
        return builder.fmul(_spread(builder, s), v, flags=_FAST)

    return v(v.dtype, v), code


@intrinsic
def total(typingctx, v):
    """The sum of the lanes."""
    def code(context, builder, signature, args):
        v, = args
        for order in ((2, 3, 0, 1), (1, 0, 3, 2)):
            turned = builder.shuffle_vector(v, v, _constant(_I32, order))
            v = builder.fadd(v, turned, flags=_FAST)
        return builder.extract_element(v, _I32(0))

    return v.dtype(v), code


@intrinsic
def totals(typingctx, a, b, c, d):
    """The sums of the lanes of four vectors, a vector."""
    def code(context, builder, signature, args):
        a, b, c, d = args

        def paired(v, w, first, second):
            halves = (builder.shuffle_vector(v, w, _constant(_I32, order))
                      for order in (first, second))
            return builder.fadd(*halves, flags=_FAST)

        pairs = (paired(v, w, (0, 4, 2, 6), (1, 5, 3, 7)) for v, w in ((a, b), (c, d)))
        return paired(*pairs, (0, 1, 4, 5), (2, 3, 6, 7))

    return a(a, a, a, a), code
