"""Monthly returns of 30 stock portfolios in three families, from Kenneth R. French's library."""

import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._common.optional import import_pandas
from .._common.typing import FloatArray
from ..tree.hierarchy import Hierarchy
from .files import about, data_file

__all__ = ["FrenchReturns", "load_french"]


@dataclass(frozen=True, eq=False, repr=False)
class FrenchReturns:
    """What `load_french` returns.

    Attributes
    ----------
    returns : ndarray, shape (819, 30)
        Monthly returns, one portfolio a column; fractions, not percent.
    names : tuple of 30 str
        Names of the portfolios.
    factors : ndarray, shape (819, 5)
        Monthly factor returns, columns as in `factor_names`.
    factor_names : tuple of 5 str
        ``("MktRF", "SMB", "HML", "Mom", "RF")``.
    dates : ndarray of datetime64[M], shape (819,)
        Months.
    hierarchy : Hierarchy
        Root, family of portfolios, and size group within the family.
    description, source, license : str
        What the series are, where they come from, and on which terms they ship.

    Examples
    --------
    >>> from mlrops.datasets import load_french
    >>> french = load_french()
    >>> french.factor_names, str(french.dates[0])
    (('MktRF', 'SMB', 'HML', 'Mom', 'RF'), '1949-01')
    >>> french.excess.shape
    (819, 30)
    """

    returns: FloatArray
    names: tuple[str, ...]
    factors: FloatArray
    factor_names: tuple[str, ...]
    dates: npt.NDArray[np.datetime64]
    hierarchy: Hierarchy
    description: str
    source: str
    license: str

    @property
    def excess(self) -> FloatArray:
        """Returns above the risk-free rate, shape (819, 30)."""
        risk_free = self.factors[:, self.factor_names.index("RF")]
        return self.returns - risk_free[:, None]

    def to_frame(self) -> Any:
        """All series as a pandas DataFrame: columns dates, the factors, the portfolios."""
        pd = import_pandas()
        frame = pd.DataFrame(np.hstack([self.factors, self.returns]),
                             columns=[*self.factor_names, *self.names])
        frame.insert(0, "dates", pd.to_datetime(self.dates.astype("datetime64[D]").astype(str)))
        return frame

    def __repr__(self) -> str:
        return (f"<French portfolio returns: {len(self.dates)} months from {self.dates[0]} to"
                f" {self.dates[-1]}, {len(self.names)} portfolios,"
                f" {len(self.factor_names)} factors>")


def load_french() -> FrenchReturns:
    """Monthly returns of 30 stock portfolios, with the tree they come in.

    The portfolios are 12 industries, 9 sorted by size and value, and 9 sorted by size and momentum.
    Each family cuts the same stock market in another way: common factors move all 30 portfolios,
    and every family has some of its own.

    Returns
    -------
    FrenchReturns
        Its ``hierarchy`` has 1, 3 and 7 groups: the industries are one group on both levels.

    Notes
    -----
    The arrays are new on every call; change them as you like.  Returns are fractions a month.  The
    series are from Kenneth R. French's data library; ``source`` says how to cite it.

    Examples
    --------
    >>> from mlrops.datasets import load_french
    >>> french = load_french()
    >>> french
    <French portfolio returns: 819 months from 1949-01 to 2017-03, 30 portfolios, 5 factors>
    >>> french.returns[0, :3]
    array([0.0367, 0.0244, 0.0055])
    >>> print(french.hierarchy.describe())
    Hierarchy of 30 features, groups by level: 1, 3, 7
    └─ all: 30 features in 3 groups
       ├─ industry: 12 features in 1 group
       │  └─ industry: 12 features
       ├─ size-momentum: 9 features in 3 groups
       │  ├─ S1 momentum: 3 features
       │  ├─ S3 momentum: 3 features
       │  └─ S5 momentum: 3 features
       └─ size-value: 9 features in 3 groups
          ├─ S1 value: 3 features
          ├─ S3 value: 3 features
          └─ S5 value: 3 features
    """
    header, *rows = gzip.decompress(data_file("french.csv.gz")).decode("ascii").splitlines()
    columns = header.split(",")[1:]
    months, numbers = zip(*(row.split(",", 1) for row in rows), strict=True)
    hundredths_of_percent = np.array([row.split(",") for row in numbers], dtype=np.int64)
    # Percent first: these two roundings are those of the published fractions, 1e-4 k is not.
    values = hundredths_of_percent / 100 / 100

    names = tuple(columns[5:])
    family, group = zip(*map(_place, names), strict=True)
    return FrenchReturns(
        returns=np.ascontiguousarray(values[:, 5:]), names=names,
        factors=np.ascontiguousarray(values[:, :5]), factor_names=tuple(columns[:5]),
        dates=np.array(months, dtype="datetime64[M]"),
        hierarchy=Hierarchy.from_labels(family, group), **about("french"))


def _place(name):
    """Family and size group of a portfolio: S3V1 is of size group 3, sorted by value."""
    if len(name) == 4 and name[0] == "S" and name[1].isdigit():
        sort = {"V": "value", "M": "momentum"}[name[2]]
        return f"size-{sort}", f"{name[:2]} {sort}"
    return "industry", "industry"
