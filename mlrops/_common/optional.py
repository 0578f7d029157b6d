"""Packages that only some functions need."""

from typing import Any

__all__ = ["import_narwhals", "import_pandas"]


def import_pandas() -> Any:
    """The module pandas, or an error that says how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("results and data with names are kept in pandas, which is not installed:"
                          ' python -m pip install "mlrops[pandas]"') from error
    return pandas


def import_narwhals() -> Any:
    """The module narwhals, or an error that says how to get it."""
    try:
        import narwhals
    except ImportError as error:
        raise ImportError("frames of other libraries than pandas are read by narwhals, which is not"
                          ' installed: python -m pip install "mlrops[frames]"') from error
    return narwhals
