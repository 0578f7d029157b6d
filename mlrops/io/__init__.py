"""Files: `save` and `load`; the layout of a file is in ``help(mlrops.io.saving)``."""

__all__ = ["load", "save"]


def __getattr__(name):
    if name in __all__:
        from . import saving

        return getattr(saving, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
