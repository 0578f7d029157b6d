"""Packages that only some functions need."""

from importlib import import_module
from typing import Any

__all__ = ["import_dask", "import_joblib", "import_narwhals", "import_pandas"]


def import_pandas() -> Any:
    """The module pandas, or an error that says how to get it."""
    return _optional("pandas", "results and data with names are kept in pandas", "pandas")


def import_narwhals() -> Any:
    """The module narwhals, or an error that says how to get it."""
    return _optional("narwhals", "frames of other libraries than pandas are read by narwhals",
                     "frames")


def import_joblib() -> Any:
    """The module joblib, or an error that says how to get it."""
    return _optional("joblib", "n_jobs runs tasks side by side by joblib", "sklearn")


def import_dask() -> Any:
    """The module dask, or an error that says how to get it."""
    return _optional("dask", "collections of dask are computed by dask", "dask")


def _optional(module, purpose, extra):
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{purpose}, which is not installed:"
                          f' python -m pip install "mlrops[{extra}]"') from error
