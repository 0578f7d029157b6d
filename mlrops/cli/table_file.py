"""Tables in text files: pandas splits them into cells, here the cells become text and numbers."""

import codecs
import csv
import io
import math
import re
from itertools import product
from typing import NamedTuple

import numpy as np

from .._common.wording import counted
from .errors import CommandError, needed, unknown
from .outputs import write_text

__all__ = ["CELLS", "Cells", "TableFile", "decoded", "separator_of", "write_table"]

_MISSING = {"", "na", "n/a", "nan", "null", "none", "."}
SEPARATORS = ",;\t"
# What files of French and of others write for a missing number.
CODES = -99.99, -999.0
_MARKS = [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"),  # of UTF-32 begin as UTF-16
          (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16")]
_SPACES = str.maketrans("\u00a0\u202f\u2009", "   ")


class Cells(NamedTuple):
    """How cells are written, in the words of `pandas.read_csv`."""

    encoding: str | None = None
    decimal: str = "."
    thousands: str | None = None
    na_values: tuple = ()

    def checked(self):
        """The same; refuses signs that cannot be told from one another or from digits."""
        for option, sign in (("--decimal", self.decimal), ("--thousands", self.thousands)):
            if sign is not None and (len(sign) != 1 or sign.isalnum() or sign in "+-"):
                raise CommandError(f"{option} must be one sign, such as a comma, got {sign!r}")
        if self.decimal == self.thousands:
            raise CommandError(f"--decimal and --thousands cannot both be {self.decimal!r}")
        return self

    def parser(self):
        """A function of a cell: its number, NaN where it is missing, None where it is neither."""
        decimal, t = re.escape(self.decimal), re.escape(self.thousands or "")
        whole = rf"\d{{1,3}}(?:{t}\d{{2,3}})*{t}\d{{3}}|\d+" if t else r"\d+"
        shape = re.compile(rf"[+-]?(?:(?:{whole})(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?",
                           re.ASCII)

        def number(cell):
            if self.thousands == " ":
                cell = cell.translate(_SPACES)
            if not shape.fullmatch(cell):
                return None
            if self.thousands:
                cell = cell.replace(self.thousands, "")
            value = float(cell.replace(self.decimal, "."))
            return value if math.isfinite(value) else None

        words = {str(word).strip() for word in self.na_values}
        missing = {value for value in map(number, words) if value is not None}

        def parse(cell):
            if cell.lower() in _MISSING or cell in words:
                return math.nan
            value = number(cell)
            return math.nan if value in missing else value

        return parse

    def advice(self, cell):
        """What to do about a cell that is no number."""
        digits = cell.translate(_SPACES).lstrip("+-")
        if "%" in cell:
            return "take percent signs out of the column, or divide it by 100"
        for decimal, thousands in ((".", None), (",", None), *product(".,", ",. '’")):
            other = self._replace(decimal=decimal, thousands=thousands, na_values=())
            if decimal == thousands or other.parser()(digits) is None:
                continue
            options = [f'{option} "{sign}"' for option, sign, own in (
                ("--decimal", decimal, self.decimal),
                ("--thousands", thousands, self.thousands)) if sign not in (None, own)]
            also = ""
            if thousands is None and re.fullmatch(r"\d{1,3},\d{3}", digits):
                also = ', or --thousands "," if its comma separates thousands'
            if options:
                return f"give {' and '.join(options)} if it is written like this{also}"
        return f'give --na-values "{cell}" if it stands for a missing cell, as empty ones and NA do'


CELLS = Cells()


class TableFile:
    """The cells of a file as text, with the lines they stand in.

    The separator is that of comma, semicolon and tab which the first line has most of.  `columns`
    gives positions by name; `rows` below the head end in `lines` of the file, blank ones left out.
    `codes` counts, by column read as numbers, cells that hold what others write for a missing one.
    """

    unit = "line"  # of the file, by which errors tell where a row stands

    def __init__(self, path, cells=CELLS, encodes=False):
        self.path, self.cells, self.codes = str(path), cells, {}
        text = decoded(self.path, cells.encoding, encodes)
        separator = separator_of(text) or ","
        names, *rows = self._split(text, separator) or [[]]
        names = [name.strip() for name in names]
        if not any(names):
            raise CommandError(f"{path} must begin with a line of column names, it is empty")
        kept, lines = [], []
        line = 1 + sum(name.count("\n") for name in names)
        for row in rows:
            line += 1 + sum(cell.count("\n") for cell in row if cell is not None)
            if any(cell is not None and cell.strip() for cell in row):
                self._check_width(sum(cell is not None for cell in row), len(names), line)
                kept.append(row)
                lines.append(line)
        self._keep(names, kept, lines)

    def _keep(self, names, rows, lines):
        """Keep rows and the lines they end in; refuses names that come twice, and no rows."""
        self.rows, self.lines = rows, lines
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise CommandError(f"{self.path} has two columns {twice[0] or 'without a name'}")
        if not self.rows:
            raise CommandError(f"{self.path} has column names but no rows")
        self.columns = {name: i for i, name in enumerate(names)}

    def _split(self, text, separator):
        """The cells of all lines; None where a line is shorter than the first."""
        pd = needed(self.path, "pandas", "pandas")
        try:
            frame = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str,
                                keep_default_na=False, skip_blank_lines=False,
                                skipinitialspace=True, engine="python")
        except pd.errors.EmptyDataError:
            return []
        except (pd.errors.ParserError, csv.Error) as error:
            found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
            if found:
                wanted, line, width = map(int, found.groups())
                self._check_width(width, wanted, line)
            raise CommandError(f"{self.path} is not a table: {error}") from None
        return [[cell if isinstance(cell, str) else None for cell in row]
                for row in frame.to_numpy(object).tolist()]

    def _check_width(self, width, wanted, line):
        if width != wanted:
            decimal = ("" if self.cells.decimal == "." else
                       "; where cells have a decimal comma, another sign must separate them, or"
                       " quotes stand around them")
            raise CommandError(f"{self.path}, line {line}: {counted(width, 'cell')}, but {wanted}"
                               f" column {'name' if wanted == 1 else 'names'}{decimal}")

    def unknown(self, name):
        """The error of a column that is not there."""
        error = unknown(name, self.columns, self.path)
        if all(CELLS.parser()(column) is not None for column in self.columns):
            return CommandError(f"{error}: the first line, which must name the columns, holds"
                                " numbers")
        return error

    def text(self, name):
        """The cells of a column, stripped."""
        if name not in self.columns:
            raise self.unknown(name)
        i = self.columns[name]
        return [row[i].strip() for row in self.rows]

    def numbers(self, name):
        """The cells of a column as numbers, NaN where they are missing, (rows,)."""
        out = self._values(name)
        if np.isnan(out).all():
            raise CommandError(f"{self.path}: column {name} has no numbers")
        counts = {f"{code:g}": int((out == code).sum()) for code in CODES}
        self.codes[name] = {code: count for code, count in counts.items() if count}
        return out

    def _values(self, name):
        parse = self.cells.parser()
        return np.array([self._number(parse, cell, t, name)
                         for t, cell in enumerate(self.text(name))])

    def _number(self, parse, cell, t, name):
        value = parse(cell)
        if value is None:
            raise CommandError(f"{self.path}, {self.place(t)}, column {name}: {cell!r} is not a"
                               f" finite number; {self.cells.advice(cell)}")
        return value

    def place(self, t):
        """Where row t stands."""
        return f"{self.unit} {self.lines[t]}"

    def suspicion(self):
        """A warning of numbers that may be codes of missing cells, or None."""
        found = [f"{name} ({counted(count, 'cell')} of {code})"
                 for name, codes in self.codes.items() for code, count in codes.items()]
        if not found:
            return None
        codes = sorted({code for own in self.codes.values() for code in own}, key=float)[::-1]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return (f"{self.path} has numbers that others write for missing cells, in column"
                f" {', '.join(found[:8])}{more}: they are taken as numbers; if they are none, give"
                f" --na-values {' '.join(codes)}")


def decoded(path, encoding=None, encodes=True):
    """The text of a file: in an encoding, or as its first bytes tell, else in UTF-8.

    `encodes` is whether the command has the option --encoding.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    own = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    hint = "give --encoding, such as latin-1, cp1252 or utf-16" if encodes else "save it in UTF-8"
    try:
        text = data.decode(encoding or own)
    except LookupError:
        raise CommandError(f"--encoding {encoding} is none that Python knows, such as latin-1,"
                           " cp1252 or utf-16") from None
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = 1 + data.count(b"\n", 0, at)
        raise CommandError(f"{path}, line {line}, is not text in"
                           f" {(encoding or own).upper()} ({getattr(error, 'reason', error)}):"
                           f" {hint}") from None
    if "\0" in text:
        raise CommandError(f"{path} is not text in {(encoding or own).upper()}, it has bytes of"
                           f" zero: {hint}")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def separator_of(text):
    """The sign of comma, semicolon and tab that the first line has most of, or None."""
    head = re.sub('"[^"]*"', "", text.split("\n", 1)[0])
    separator = max(SEPARATORS, key=head.count)
    return separator if separator in head else None


def write_table(path, head, rows):
    """Write a table as CSV, in UTF-8."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([head, *rows])
    write_text(path, text.getvalue())
