"""Plain values as JSON: numbers, text, None, and tuples, lists and dicts of them, bit for bit.

JSON has no NaN, tuples or NumPy scalars.  They become objects with one key that begins with ``$``:

================  ==================================================================================
``$float``        NaN and infinities: the 8 bytes of the float, big-endian, in hexadecimal;
                  finite floats are plain JSON numbers, which Python reads back bit for bit
``$tuple``        a list of the entries
``$bytes``        hexadecimal
``$numpy``        ``[dtype, bytes in hexadecimal]`` of a NumPy scalar
================  ==================================================================================
"""

import json
import math
import re
import struct
from typing import Any

import numpy as np

__all__ = ["DTYPE", "encode", "from_json", "plain_dtype"]

MAX_NESTING = 50
DTYPE = re.compile(
    r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248]|\|S[1-9]\d{0,5}|[<>]U[1-9]\d{0,5}"
    r"|[<>][mM]8(\[([1-9]\d{0,5})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)


def plain_dtype(text: Any) -> np.dtype:
    if type(text) is not str or not DTYPE.fullmatch(text):
        raise ValueError(f"dtype {str(text)[:40]!r} is none of the layout")
    return np.dtype(text)


def _place(where: tuple[Any, ...]) -> str:
    return str(where[0]) + "".join(f"[{key!r}]" for key in where[1:])


def encode(value: Any, where: tuple[Any, ...]) -> Any:
    """`value` in terms of JSON; `where` are the keys that led to it, the first its place."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"{_place(where)} cannot be saved: {value:.3e} has more than 64 bits")
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if kind is np.str_:
        return str(value)
    if kind is bytes:
        return {"$bytes": value.hex()}
    number = isinstance(value, np.generic) and value.dtype.kind in "biufmM"
    if number and DTYPE.fullmatch(value.dtype.str):
        return {"$numpy": [value.dtype.str, value.tobytes().hex()]}
    if kind in (tuple, list, dict) and len(where) > MAX_NESTING:
        raise ValueError(f"{where[0]} cannot be saved: nested more than {MAX_NESTING} deep")
    if kind in (tuple, list):
        entries = [encode(x, (*where, i)) for i, x in enumerate(value)]
        return entries if kind is list else {"$tuple": entries}
    if kind is dict:
        for key in value:
            if type(key) is not str or key.startswith("$"):
                raise TypeError(
                    f"{_place(where)} cannot be saved: keys must be strings that do not begin with"
                    f" '$', got {key!r}"
                )
        return {key: encode(x, (*where, key)) for key, x in value.items()}
    raise TypeError(
        f"{_place(where)} cannot be saved: expected None, bool, int, float, str, bytes, a NumPy"
        f" number or date, or a tuple, list or dict of these; got {kind.__name__}"
    )


def _decode(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("damaged: a key stands twice in one JSON object")
    tags = [key for key in value if key.startswith("$")]
    if not tags:
        return value
    if len(value) > 1 or tags[0] not in _DECODERS:
        raise ValueError(f"damaged: {tags[0][:20]!r} is no tag of the layout")
    wanted, decode = _DECODERS[tags[0]]
    (content,) = value.values()
    if type(content) is not wanted:
        raise ValueError(f"damaged: {tags[0]!r} must hold a {wanted.__name__}")
    return decode(content)


def _decode_float(text: str) -> float:
    return struct.unpack(">d", bytes.fromhex(text))[0]


def _decode_scalar(content: list[Any]) -> np.generic:
    text, data = content
    scalar = np.frombuffer(bytes.fromhex(data), plain_dtype(text))
    if scalar.size != 1 or scalar.dtype.kind in "SU":
        raise ValueError("damaged: '$numpy' does not hold one number")
    return scalar[0]


_DECODERS = {
    "$float": (str, _decode_float),
    "$tuple": (list, tuple),
    "$bytes": (str, bytes.fromhex),
    "$numpy": (list, _decode_scalar),
}


def _parse_int(text: str) -> int:
    if len(text) > 20:
        raise ValueError("damaged: a JSON integer of more than 64 bits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("damaged: a JSON number that is not finite")
    return value


def _refuse_constant(text: str) -> None:
    raise ValueError(f"damaged: {text} is not JSON")


def from_json(text: str) -> Any:
    """The value that a JSON text of the layout stands for; ValueError where it is none."""
    return json.loads(
        text,
        object_pairs_hook=_decode,
        parse_int=_parse_int,
        parse_float=_parse_float,
        parse_constant=_refuse_constant,
    )
