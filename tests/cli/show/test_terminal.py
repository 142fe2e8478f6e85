"""Whatever a console is given to print, a terminal receives nothing that only the console should send."""

from __future__ import annotations

import io

import pytest
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from thalweg.cli.show.progress import progress
from thalweg.cli.show.tables import print_tables
from thalweg.cli.show.terminal import Terminal
from thalweg.evaluate.tables import Table, columns

HOSTILE = "a\x1b]0;title\x07\x9b2J\u202e\u2028\x7fb"
SHOWN = "a\\x1b]0;title\\x07\\x9b2J\\u202e\\u2028\\x7fb"


def made(height: int = 1) -> RichTable:
    table = RichTable(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    for _ in range(height):
        table.add_row(HOSTILE)
    return table


@pytest.mark.parametrize(
    "given", [HOSTILE, Text(HOSTILE), Text.assemble((HOSTILE, "bold")), made(), Panel(HOSTILE, title=HOSTILE)]
)
def test_what_is_printed_is_escaped(given: object) -> None:
    out = io.StringIO()
    console = Terminal(width=200)
    console.file = out
    console.print(given, soft_wrap=isinstance(given, str))
    assert SHOWN in out.getvalue().replace("title\\x9b", "title\\x07\\x9b")  # Rich itself leaves BEL out of a Text
    assert out.getvalue().replace("\n", "").isprintable()


def test_what_is_redrawn_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    console = Terminal(width=200)
    console.file = out
    with progress(console, redraws=False) as line:
        line.show(lambda: Text(HOSTILE))
        line.print(HOSTILE)
    assert "a\\x1b]0;title\\x9b2J\\u202e\\u2028\\x7fb" in out.getvalue()
    assert SHOWN in out.getvalue()
    assert "\x1b]" not in out.getvalue()
    assert not set(out.getvalue()) & set("\x07\x9b\u202e\u2028\x7f")


def test_a_cell_cannot_begin_a_line_and_addresses_are_no_emoji() -> None:
    out = io.StringIO()
    console = Terminal(width=200)
    console.file = out
    table = Table(title="Hosts", columns=columns(["host"], []), rows=(("x\nnote: forged",), ("2001:db8:100:1234:1::",)))
    print_tables(console, [table])
    assert "x\\nnote: forged" in out.getvalue()
    assert "2001:db8:100:1234:1::" in out.getvalue()
