"""Tables in parquet files: what other commands read as text comes with types."""

from pathlib import Path

import numpy as np

from .._common.validate import as_real
from .errors import CommandError, needed
from .table_file import CELLS, TableFile

__all__ = ["ParquetFile", "open_table"]


def open_table(path, cells=CELLS, encodes=False):
    """The table of a file: of parquet where its name ends so, else of text."""
    if Path(path).suffix.lower() == ".parquet":
        return ParquetFile(path, cells)
    return TableFile(path, cells, encodes)


class ParquetFile(TableFile):
    """A parquet file, or a folder of them, whose columns are read when they are asked for."""

    unit = "row"

    def __init__(self, path, cells=CELLS):
        self.path, self.cells, self.codes = str(path), cells, {}
        self._open = needed(self.path, "pyarrow.dataset", "disk").dataset
        self._data = self._reading(lambda: self._open(self.path, format="parquet"))
        n_rows = self._reading(self._data.count_rows)
        self._keep(self._data.schema.names, range(n_rows), range(1, n_rows + 1))

    def _reading(self, read):
        try:
            return read()
        except FileNotFoundError:
            raise CommandError(f"{self.path} cannot be read: No such file or directory") from None
        except (OSError, ValueError) as error:
            raise CommandError(f"{self.path} is not a table in parquet format: {error}") from None

    def _column(self, name):
        if name not in self.columns:
            raise self.unknown(name)
        return self._reading(lambda: self._data.to_table(columns=[name])).column(0)

    def text(self, name):
        """The cells of a column as text, empty where they are missing."""
        return ["" if cell is None or cell != cell else str(cell).strip()
                for cell in self._column(name).to_pylist()]

    def _values(self, name):
        """Numbers as they are; codes of missing cells become NaN.  Columns of text are parsed."""
        try:
            out = as_real(self._column(name).to_numpy(), name, np.float64).copy()
        except TypeError:
            return super()._values(name)
        parse = self.cells._replace(na_values=()).parser()
        codes = [parse(word.strip()) for word in self.cells.na_values]
        out[np.isin(out, [code for code in codes if code is not None])] = np.nan
        for t in np.flatnonzero(np.isinf(out)):
            out[t] = self._number(self.cells.parser(), str(out[t]), t, name)
        return out
