"""Tables of groups, coarse to fine, for equations or for the rows of a matrix."""

from collections.abc import Collection, Sequence
from itertools import pairwise

from .._common.wording import counted, name_some
from ..tree.hierarchy import Hierarchy
from .errors import CommandError
from .parquet_file import open_table
from .table_file import TableFile

__all__ = ["groups_by_name", "read_tree"]


def groups_by_name(table: TableFile, names: Collection[str],
                   noun: str) -> dict[str, tuple[str, ...]]:
    """Groups of each of the names, from a table whose first column holds the names.

    The `noun` says in errors what the names are of.
    """
    first, *columns = table.columns
    if not columns:
        raise CommandError(f"{table.path} must have a column of {noun}s and at least one of their"
                           " groups, it has one column")
    places: dict[str, str] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for t, (name, *own) in enumerate(zip(*map(table.text, table.columns), strict=True)):
        if name in places:
            raise CommandError(f"{table.path}, {table.place(t)}: {noun} {name} has had a row in"
                               f" {places[name]}")
        places[name], groups[name] = table.place(t), tuple(own)
    lacks = [name for name in names if name not in places]
    if first in lacks:
        raise CommandError(f"{table.path} must begin with a line of column names, its first line"
                           f" is that of {noun} {first}: put a line such as {noun},group above it")
    if lacks:
        raise CommandError(f"{table.path} has no row for {len(lacks)} of {len(names)} {noun}s"
                           f" ({name_some(lacks)})")
    for name in names:
        if "" in groups[name]:
            raise CommandError(f"{table.path}, {places[name]}, column"
                               f" {columns[groups[name].index('')]}: {noun} {name} has no group")
    groups = {name: groups[name] for name in names}
    _check_nested(table.path, columns, list(zip(*groups.values(), strict=True)))
    return groups


def read_tree(path: str, n: int, names: Sequence[str] | None = None) -> Hierarchy:
    """The tree of a table with a line for each of n rows of a matrix.

    Lines stand in the order of the rows, unless the first column holds the names of these.
    """
    table = open_table(path)
    known = set(names or ()) & set(table.text(next(iter(table.columns))))
    if names is not None and known and len(table.columns) > 1 and len(set(names)) == len(names):
        return Hierarchy.from_labels(groups_by_name(table, names, "column"))
    if len(table.rows) != n:
        raise CommandError(f"{path} must have a line below its head for each of the"
                           f" {counted(n, 'row')} of the matrix, it has {len(table.rows)}"
                           + (": is there no head?" if len(table.rows) == n - 1 else ""))
    levels = list(map(table.text, table.columns))
    for column, labels in zip(table.columns, levels, strict=True):
        if "" in labels:
            raise CommandError(f"{path}, {table.place(labels.index(''))}, column {column}: a row"
                               " without a group")
    _check_nested(path, list(table.columns), levels)
    return Hierarchy.from_labels(*levels)


def _check_nested(path, columns, levels):
    """Refuse a group that lies in two groups of the column before."""
    for (outer, above), (inner, below) in pairwise(zip(columns, levels, strict=True)):
        parent = {}
        for group, one in zip(below, above, strict=True):
            other = parent.setdefault(group, one)
            if other != one:
                raise CommandError(
                    f"{path}: group {group} of column {inner} lies in two groups of column {outer},"
                    f" {other} and {one}; columns go from coarse to fine, each group in one of the"
                    " column before")
