"""Models and data with named columns."""

import numpy as np

from .._optional import import_pandas
from .._wording import counted, name_some
from ..operators._validate import working_dtype

__all__ = ["check_names", "check_order", "frame_values", "like_frame", "loadings_frame"]


def check_names(got, fitted):
    """Refuse columns of other names, or in another order, than those fitted to."""
    got, fitted = tuple(map(str, got)), tuple(fitted)
    if got == fitted:
        return
    if len(got) != len(fitted):
        raise ValueError(f"Y must have the {counted(len(fitted), 'column')} fitted to, got"
                         f" {len(got)}")
    first = [f"column {i} is {a!r}, fitted was {b!r}"
             for i, (a, b) in enumerate(zip(got, fitted, strict=True)) if a != b]
    same = sorted(got) == sorted(fitted)
    raise ValueError("Y must have the columns fitted to, in their order"
                     f"{' (these are the same in another order)' if same else ''}:"
                     f" {name_some(first, limit=3)}")


def check_order(got, fitted, what):
    """Refuse the columns fitted to in another order: they would be taken for one another."""
    got, fitted = list(map(str, got)), list(fitted)
    if got != fitted and sorted(got) == sorted(fitted):
        raise ValueError(
            f"{what} must have its columns in the order fitted to, {fitted}, got {got}")


def frame_values(frame, what):
    """A DataFrame's numbers (N, n) as float32 or float64; columns that are no numbers are named."""
    kinds = list(frame.dtypes)
    bad = [j for j, kind in enumerate(kinds) if getattr(kind, "kind", "O") not in "fiub"]
    if bad:
        raise TypeError(
            f"{what} must be numeric, got dtype {kinds[bad[0]]} in {counted(len(bad), 'column')}"
            f" ({name_some(frame.columns[j] for j in bad)})"
        )
    if not kinds:
        raise ValueError(f"{what} must have at least one feature (column), got {frame.shape}")
    # What a nullable column lacks becomes NaN.
    return frame.to_numpy(np.result_type(*map(_computing, kinds)), na_value=np.nan)


def _computing(kind):
    """The dtype to compute in for a column, whose own may be nullable or sparse."""
    return working_dtype(getattr(kind, "numpy_dtype", getattr(kind, "subtype", kind)))


def like_frame(Y, x):
    """`x` with rows and columns named as in `Y` where that is a DataFrame."""
    if not (hasattr(Y, "columns") and hasattr(Y, "index")):
        return x
    pd = import_pandas()

    return pd.DataFrame(x, index=Y.index, columns=Y.columns)


def loadings_frame(fit, loadings):
    """Loadings, one array (n, r_l) a level, with variance and communality, as a DataFrame."""
    pd = import_pandas()

    columns = [(f"level {level}", f"factor {k}")
               for level, F in enumerate(loadings) for k in range(F.shape[1])]
    data = np.column_stack([*loadings, fit.covariance.D, fit.communalities])
    return pd.DataFrame(
        data, index=None if fit.feature_names is None else pd.Index(fit.feature_names),
        columns=pd.MultiIndex.from_tuples([*columns, ("D", ""), ("communality", "")]))
