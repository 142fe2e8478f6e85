"""A table is described once and shown twice: as HTML, where everything is text, and on the terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from thalweg.cli.show.tables import print_tables
from thalweg.evaluate.page import section, table_html
from thalweg.evaluate.tables import Column, Share, Table, columns

TABLE = Table(
    title="A & B",
    columns=(*columns(["<name>"], ["found"]), Column("note", "left", "faint")),
    rows=(("a[b]c<i>", Share(0.5), "-"), ("d", Share(None), "x")),
    emphasised=frozenset([1]),
    caption="what <it> means",
)


def printed(*tables: Table) -> str:
    shown = StringIO()
    print_tables(Console(file=shown, width=60, markup=False, highlight=False), tables)
    return shown.getvalue()


def test_a_page_takes_every_cell_for_text() -> None:
    page = section(TABLE)
    assert "<h2>A &amp; B</h2>" in page
    assert "<th>&lt;name&gt;</th>" in page
    assert "<td>a[b]c&lt;i&gt;</td>" in page
    assert "<p>what &lt;it&gt; means</p>" in page
    assert "<p>&lt;b&gt;</p>" in section(TABLE, "<b>")


def test_a_page_draws_shares_and_marks_what_matters() -> None:
    page = table_html(TABLE)
    assert 'style="width:50.0%"' in page
    assert '<td class="faint">–</td>' in page
    assert '<tr class="strong"><td>d</td><td class="right">–</td>' in page


def test_a_terminal_shows_the_same() -> None:
    lines = printed(TABLE).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["A", "&", "B"],
        ["<name>", "found", "note"],
        ["a[b]c<i>", "50.0", "%", "-"],
        ["d", "-", "x"],
    ]
    assert lines[4].strip() == "what <it> means"


def test_without_headings_there_is_no_line_for_them() -> None:
    bare = Table(title="T", columns=(Column("", "left"), Column("")), rows=(("a", "1"),))
    assert [line.split() for line in printed(bare).splitlines()] == [["T"], ["a", "1"], []]


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(AssertionError, match="T: a row lacks cells"):
        Table(title="T", columns=columns(["a"], ["b"]), rows=(("x",),))
