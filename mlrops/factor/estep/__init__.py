"""The E-step and M-step of each kind of data: complete, streamed, with missing cells.

The modules that are compiled, or call compiled ones at once, are loaded on first use.
"""

from ..._common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__, modules=("_compiled_exact", "_compiled_incomplete", "_compiled_moments", "forest",
                       "moments"))
