"""The parts of every report: one HTML page that fetches nothing, with tables and charts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from thalweg.errors import SinkError
from thalweg.evaluate.charts import Plot, bundle, spec_of
from thalweg.evaluate.tables import Cell, Column, Share, Table
from thalweg.runtime.whole_file import whole_file


def make_page(title: str, body: Sequence[str], charts: Mapping[str, Plot]) -> str:
    """Return a whole page. body: HTML, in order; charts: by the id of the element of the body that each is drawn in."""
    specs = {name: spec_of(chart) for name, chart in charts.items()}
    data = _in_script(json.dumps(specs, allow_nan=False))
    script = f"<script>{bundle()}</script><script>const specs={data};{_DRAW}</script>" if charts else ""
    return _TEMPLATE.format(title=escape(title), style=_STYLE, body="\n".join(body), script=script)


def _in_script(text: str) -> str:
    """Escape JSON so that no label in it ends the script element, or begins a comment or another script in it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write_page(path: Path, page: str | bytes) -> None:
    """Write a page, or a file that goes with it, whole or not at all.

    Raises SinkError if the file cannot be written.
    """
    try:
        with whole_file(path) as partial:
            partial.write_bytes(page if isinstance(page, bytes) else page.encode())
    except OSError as error:
        raise SinkError(f"cannot write the report {path}: {error.strerror}. Choose another path") from error


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in percent; a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}%}"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number; a dash if there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def figure(title: str, names: Sequence[str], words: str, level: int = 2) -> str:
    """Lay out a heading, charts by name, and a paragraph on what they mean."""
    charts = "".join(f'<div class="chart" id="{name}"></div>' for name in names)
    head = f"<h{level}>{escape(title)}</h{level}>"
    return f'<section>{head}<div class="charts">{charts}</div><p>{escape(words)}</p></section>'


def section(table: Table, words: str = "", *, level: int = 2, wraps: bool = False) -> str:
    """Lay out a table below its title, and what it means: `words`, or the table's caption if there are none."""
    meaning = words or table.caption or ""
    note = f"<p>{escape(meaning)}</p>" if meaning else ""
    return f"<section><h{level}>{escape(table.title)}</h{level}>{table_html(table, wraps=wraps)}{note}</section>"


def table_html(table: Table, *, wraps: bool = False) -> str:
    """Lay out a table without its title and caption. wraps: for cells that hold sentences."""
    head = "".join(f"<th{_kind(column)}>{escape(column.name)}</th>" for column in table.columns)
    body = "".join(_row(table, place) for place in range(len(table.rows)))
    kind = "wide words" if wraps else "wide"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(table: Table, place: int) -> str:
    start = '<tr class="strong">' if place in table.emphasised else "<tr>"
    pairs = zip(table.columns, table.rows[place], strict=True)
    return start + "".join(f"<td{_kind(column)}>{_cell(cell)}</td>" for column, cell in pairs) + "</tr>"


def _kind(column: Column) -> str:
    kinds = [name for name in (column.align, column.tone) if name not in ("left", "plain")]
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _cell(cell: Cell) -> str:
    if isinstance(cell, Share):
        return _bar(cell)
    return "–" if cell == "-" else escape(cell)


def _bar(share: Share) -> str:
    """Draw a share as a bar with its number."""
    if share.value is None:
        return "–"
    return f'<span class="bar"><i style="width:{share.value:.1%}"></i></span><b>{share.value:.1%}</b>'


def facts_list(facts: Mapping[str, str]) -> str:
    """Lay out what should be known about a run, by name."""
    if not facts:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<section><h2>About this run</h2><dl>{items}</dl></section>"


_DRAW: Final = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
for (const [name, spec] of Object.entries(specs))
  vegaEmbed("#" + name, spec, {mode: "vega-lite", renderer: "svg", actions: false,
                               tooltip: {theme: dark ? "dark" : "light"}});
"""

_STYLE: Final = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 16%, transparent);
  --soft: color-mix(in srgb, currentColor 5%, transparent); }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; max-width: 1040px;
  margin: 2.5rem auto 4rem; padding: 0 1.25rem; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1.25rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; }
p { max-width: 46rem; } .note { border-left: 3px solid var(--line); padding-left: .8rem; }
.note, .hint { opacity: .78; font-size: .9rem; }
.cards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; background: var(--soft); }
.card .name { font-size: .85rem; opacity: .85; } .card .value { font-size: 1.7rem; font-weight: 600; }
.card .hint { font-size: .8rem; line-height: 1.35; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
.chart { width: 100%; min-width: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; font-size: .82rem; opacity: .8; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td { max-width: 32rem; overflow: hidden; text-overflow: ellipsis; }
.right { text-align: right; } td.strong, .strong td { font-weight: 600; } td.faint { opacity: .78; }
.words td { white-space: normal; max-width: none; vertical-align: top; }
h3 { font-size: 1.02rem; margin: 2rem 0 .6rem; }
.bar { display: inline-block; width: 110px; height: .6rem; border-radius: 3px; background: var(--line);
  margin-right: .6rem; overflow: hidden; } .bar i { display: block; height: 100%; background: #4a8fd0; }
td b { display: inline-block; min-width: 3.4rem; text-align: right; font-weight: 500; }
section + .wide, section + .wide + .note { margin-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; } dt { opacity: .75; }
dd { margin: 0; overflow-wrap: anywhere; }
"""

# The policy forbids the page to fetch anything; Vega compiles its expressions, hence 'unsafe-eval'.
_TEMPLATE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline';
 script-src 'unsafe-inline' 'unsafe-eval'; img-src data:">
<style>{style}</style></head>
<body><h1>{title}</h1>
{body}
{script}</body></html>
"""
