"""Tables in text files: read with the standard library, so that nothing else is needed."""

import csv
import math
import re
from array import array
from contextlib import contextmanager

import numpy as np

from .._wording import counted
from .errors import CommandError, unknown

__all__ = ["TableFile", "reading", "write_table"]

_MISSING = {"", "na", "n/a", "nan", "null", "none", "."}
SEPARATORS = ",;\t"


class TableFile:
    """The cells of a file as text, with the lines they stand in.

    The separator is that of comma, semicolon and tab which the first line has most of.

    Attributes
    ----------
    path : str
    columns : dict of str to int
        Positions of the columns, by name.
    rows : list of list of str
        Rows below the head, blank lines left out.
    lines : sequence of int
        Where each row ends in the file.
    """

    def __init__(self, path):
        self.path = str(path)
        with reading(self.path) as file:
            head = file.readline()
            separator = max(SEPARATORS, key=re.sub('"[^"]*"', "", head).count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
            names = [name.strip() for name in next(reader, [])]
            if not any(names):
                raise CommandError(f"{path} must begin with a line of column names, it is empty")
            self.rows, self.lines = [], array("q")
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(names):
                    raise CommandError(f"{path}, line {reader.line_num}:"
                                       f" {counted(len(row), 'cell')}, but {len(names)} column"
                                       " names")
                self.rows.append(row)
                self.lines.append(reader.line_num)
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise CommandError(f"{path} has two columns {twice[0] or 'without a name'}")
        if not self.rows:
            raise CommandError(f"{path} has column names but no rows")
        self.columns = {name: i for i, name in enumerate(names)}

    def text(self, name):
        """The cells of a column, stripped."""
        if name not in self.columns:
            raise unknown(name, self.columns, self.path)
        i = self.columns[name]
        return [row[i].strip() for row in self.rows]

    def numbers(self, name):
        """The cells of a column as numbers, NaN where they are missing, (rows,)."""
        cells = self.text(name)
        out = np.empty(len(cells))
        for t, cell in enumerate(cells):
            if cell.lower() in _MISSING:
                out[t] = math.nan
                continue
            try:
                out[t] = float(cell)
            except ValueError:
                out[t] = math.inf
            if math.isinf(out[t]):
                raise CommandError(f"{self.path}, line {self.lines[t]}, column {name}: {cell!r} is"
                                   " not a finite number (missing cells are empty or NA)")
        if np.isnan(out).all():
            raise CommandError(f"{self.path}: column {name} has no numbers")
        return out


@contextmanager
def reading(path):
    """An open text file; what the system or its bytes refuse is an error of the command."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not text in UTF-8: {error.reason}") from None
    except csv.Error as error:
        raise CommandError(f"{path} is not a table: {error}") from None


def write_table(path, head, rows):
    """Write a table as CSV."""
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows(rows)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
