"""``python -m mlrops bench``: this package against floors and peers, on the user's machine."""

from ..._common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__, ("command", "operators", "peers", "race", "recursion", "timing"),
    {"bench": "command"})
