"""Grunfeld's investment data, the classic example of seemingly unrelated regressions."""

import csv
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._common.optional import import_pandas
from .._common.typing import FloatArray, IntArray
from .files import about, data_file

__all__ = ["GrunfeldPanel", "load_grunfeld"]


@dataclass(frozen=True, eq=False, repr=False)
class GrunfeldPanel:
    """What `load_grunfeld` returns.

    Attributes
    ----------
    invest, value, capital : ndarray, shape (20, 11)
        Gross investment, market value and capital stock, millions of US dollars at 1947 prices;
        one year a row, one firm a column.
    firms : tuple of 11 str
        Names of the firms.
    years : ndarray of int, shape (20,)
        1935 to 1954.
    description, source, license : str
        What the data are, where they come from, and on which terms they ship.

    Examples
    --------
    >>> from mlrops.datasets import load_grunfeld
    >>> panel = load_grunfeld()
    >>> panel.invest.shape, panel.to_frame().columns.tolist()
    ((20, 11), ['invest', 'value', 'capital', 'firm', 'year'])
    """

    invest: FloatArray
    value: FloatArray
    capital: FloatArray
    firms: tuple[str, ...]
    years: IntArray
    description: str
    source: str
    license: str

    def to_frame(self) -> Any:
        """A pandas DataFrame of 220 rows, firm by firm: invest, value, capital, firm, year."""
        variables = {name: getattr(self, name).T.ravel() for name in ("invest", "value", "capital")}
        firm = np.repeat(self.firms, len(self.years)).tolist()
        year = np.tile(self.years.astype(float), len(self.firms))
        return import_pandas().DataFrame({**variables, "firm": firm, "year": year})

    def __repr__(self) -> str:
        return (f"<Grunfeld investment data: {len(self.firms)} firms, {len(self.years)} years from"
                f" {self.years[0]} to {self.years[-1]}>")


def load_grunfeld() -> GrunfeldPanel:
    """Investment, market value and capital stock of 11 firms over 20 years.

    With one investment equation a firm, ``invest ~ 1 + value + capital``, this is the data on which
    seemingly unrelated regressions were introduced and are still compared.

    Returns
    -------
    GrunfeldPanel

    References
    ----------
    Y. Grunfeld, "The determinants of corporate investment", 1958; C. Kleiber, A. Zeileis, "The
    Grunfeld data at 50", 2008.

    Examples
    --------
    >>> from mlrops.datasets import load_grunfeld
    >>> panel = load_grunfeld()
    >>> panel
    <Grunfeld investment data: 11 firms, 20 years from 1935 to 1954>
    >>> panel.firms[:2], panel.invest[0, :2]
    (('General Motors', 'US Steel'), array([317.6, 209.9]))
    """
    rows = list(csv.DictReader(data_file("grunfeld.csv").decode("ascii").splitlines()))
    firms = tuple(dict.fromkeys(row["firm"] for row in rows))

    def by_year(column, dtype=float):
        return np.array([row[column] for row in rows]).reshape(len(firms), -1).T.astype(dtype, "C")

    return GrunfeldPanel(
        invest=by_year("invest"), value=by_year("value"), capital=by_year("capital"), firms=firms,
        years=by_year("year", int)[:, 0].copy(), **about("grunfeld"))
