"""Prints the tables of `evaluate.tables` on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table as RichTable

from thalweg.evaluate.tables import Table
from thalweg.runtime.terminal import printable

_STYLES: Final = {"plain": None, "strong": "bold", "faint": "dim"}


def print_tables(console: Console, tables: Iterable[Table], *, emphasis: str = "bold") -> None:
    """Print tables without lines, an empty line after each. emphasis: the style of emphasised rows."""
    for table in tables:
        console.print(terminal_table(table, emphasis), "")


def terminal_table(table: Table, emphasis: str = "bold") -> RichTable:
    """Return a table for Rich to print; it has no header line if no column has a heading."""
    shown = RichTable(
        title=table.title,
        title_justify="left",
        caption=table.caption,
        caption_justify="left",
        show_header=any(column.name for column in table.columns),
        box=None,
        pad_edge=False,
    )
    for column in table.columns:
        shown.add_column(column.name, justify=column.align, style=_STYLES[column.tone])
    for place, row in enumerate(table.rows):
        shown.add_row(*(printable(str(cell)) for cell in row), style=emphasis if place in table.emphasised else None)
    return shown
