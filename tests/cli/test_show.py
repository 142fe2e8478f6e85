from __future__ import annotations

from io import StringIO

from rich.console import Console

from thalweg.cli.show.console import slowest_in_words, stages_table
from thalweg.runtime.stages import Stage, for_each, run_stages


def run_shown(console: Console) -> tuple[Stage, ...]:
    stages = (Stage("source", lambda _: ["a" * 1200]), Stage("write", for_each(lambda item: item)))
    with stages_table(console) as watch:
        watch(stages)
        list(run_stages(stages))
    return stages


def test_a_terminal_is_shown_a_line_for_each_stage() -> None:
    shown = StringIO()
    run_shown(Console(file=shown, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"}))
    lines = [line.split() for line in shown.getvalue().splitlines()]
    assert any("flows/s" in line for line in lines)
    assert any("source" in " ".join(line) and "1,200" in line for line in lines)
    assert any("write" in " ".join(line) and "1,200" in line for line in lines)


def test_a_file_is_shown_nothing() -> None:
    shown = StringIO()
    run_shown(Console(file=shown))
    assert shown.getvalue() == ""


def test_the_slowest_stage_is_named() -> None:
    slow, quick = Stage("inference", iter), Stage("write", iter)
    slow.meter.busy_s, slow.meter.waited_in_s, quick.meter.busy_s = 96, 4, 1
    assert slowest_in_words((quick, slow)) == "the slowest stage is inference: busy 96 % of the time"
