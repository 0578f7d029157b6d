"""The types of the public face, one word each, for signatures and for type checkers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any  # matplotlib is loaded by those who draw

__all__ = ["Axes", "BoolArray", "Callback", "CovType", "Criterion", "Data", "Entries", "FloatArray",
           "Frame", "Indices", "IntArray", "Kernel", "Labelled", "Labels", "Matrix", "Multiplies",
           "RandomState", "Optimizer", "Points", "Prior", "Ranks", "Real", "RotationMethod",
           "RowData", "ScoreMethod", "Sliced", "Solver", "Sparse", "Strategy", "Vector"]


class Frame(Protocol):
    """A table with named columns: of pandas, polars, or another library that narwhals reads."""

    @property
    def columns(self) -> Any: ...

    @property
    def shape(self) -> Any: ...


class Sliced(Protocol):
    """An array on disk, of which rows are read by slices: of zarr, h5py or netCDF4."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class Sparse(Protocol):
    """A sparse array or matrix of SciPy."""

    @property
    def shape(self) -> Any: ...

    def toarray(self) -> Any: ...


class Multiplies(Protocol):
    """An operator, of which only products are taken."""

    @property
    def shape(self) -> Any: ...

    def matvec(self, x: Any) -> Any: ...


FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

# An array of real numbers, or what NumPy makes one of: no text, no complex numbers, no dict.
_RealArray: TypeAlias = npt.NDArray[np.floating[Any] | np.integer[Any] | np.bool_]
Vector: TypeAlias = _RealArray | Sequence[float]
Real: TypeAlias = _RealArray | Sequence[float] | Sequence[Sequence[float]] | Sequence[_RealArray]
# Samples or observations: an array, or a frame whose names are kept.
Data: TypeAlias = Real | Frame
# The same, or on disk, where the tables of pyarrow come without types.
RowData: TypeAlias = Data | Sliced
# A matrix in any form.
Matrix: TypeAlias = Data | Sparse | Multiplies
# A matrix that is not formed: the block of two arrays of numbers; points, and a function of them.
Entries: TypeAlias = Callable[[Any, Any], Any]
Points: TypeAlias = Data | tuple[Data, Data]
Kernel: TypeAlias = str | Callable[[Any, Any], Any]
# Names or values by name: a Series or a dict, else one an entry.
Labels: TypeAlias = Mapping[Any, Any] | Sequence[Any] | npt.NDArray[Any] | Frame
Indices: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]] | IntArray
# What a result gives: an array or a list of arrays, or pandas objects where the data had names.
Labelled: TypeAlias = Any
Ranks: TypeAlias = int | Sequence[int]
RandomState: TypeAlias = int | np.random.Generator | None
Callback: TypeAlias = Callable[[Any], object]

# Options whose values are fixed words.
CovType: TypeAlias = Literal["unadjusted", "robust", "clustered", "hac", "bootstrap"]
Criterion: TypeAlias = Literal["bic", "aic", "cv"]
Method: TypeAlias = Literal["factor", "fgls", "ifgls"]
Optimizer: TypeAlias = Literal["auto", "scoring", "bfgs", "em"]
RotationMethod: TypeAlias = Literal["varimax", "quartimax", "promax"]
ScoreMethod: TypeAlias = Literal["posterior", "bartlett"]
Solver: TypeAlias = Literal["cg", "lsmr"]
# A strength in pseudo-samples, True for one a factor, or "cv".
Prior: TypeAlias = Literal["cv"] | float | bool | None
Strategy: TypeAlias = Literal["greedy", "grid"]
