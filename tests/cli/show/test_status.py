"""The status of a run, as text and as JSON."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from thalweg.cli.show.status import status_line, status_log

WORDS = "1 exporters  0 records/s  3 lost  2 windows  900 flows  7 anomalous  lag 2.0 s  spool 1.5 MB"
END = "900 flows in 2 windows written; 7 anomalous"


def status(restarts: int = 0) -> dict[str, Any]:
    return {
        "receiver": {"time": 100.0, "counts": {"kernel_drops": 3}, "spool_bytes": 1_500_000, "restarts": restarts},
        "scorer": {
            "time": 99.0,
            "reached": 98.0,
            "windows": 2,
            "flows": 900,
            "anomalous": 7,
            "counts": {"kernel_drops": 0},
            "exporters": [{"flows": 1000, "last_seen": 97.0, "lost": 4}],
        },
    }


def test_a_file_gets_a_line_a_minute_and_what_it_came_to() -> None:
    shown = StringIO()
    with status_line(Console(file=shown, width=200, highlight=False)) as report:
        for _ in range(3):
            report(status(restarts=1))
    first, note, last = shown.getvalue().splitlines()
    assert first == f"{WORDS}  scorer restarted 1 times"
    assert note.startswith("note: 3 ")
    assert last == END


def test_a_terminal_is_shown_each_status() -> None:
    shown = StringIO()
    terminal = Console(file=shown, force_terminal=True, width=120, color_system=None, _environ={"TERM": "xterm"})
    with status_line(terminal) as report:
        assert "listening …" in shown.getvalue()
        report(status())
        assert WORDS in shown.getvalue()
    assert END in shown.getvalue()


def test_a_program_gets_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    with status_log() as report:
        report(status())
        report(status())
    now, end = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (now["event"], end["event"]) == ("status", "stopped")
    assert now["time"].endswith("Z")
    assert {name: now[name] for name in end if name != "event"} == {n: v for n, v in end.items() if n != "event"}
    assert (now["lost"], now["lost_by_sequence"], now["lag_s"], now["spool_mb"]) == (3, 4, 2.0, 1.5)


def test_nothing_is_said_of_a_run_that_reported_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = StringIO()
    with status_line(Console(file=shown)), status_log():
        pass
    assert shown.getvalue() == capsys.readouterr().err == ""
