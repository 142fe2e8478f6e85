"""Progress: drawn in place on a terminal; elsewhere a line for each step, or nothing."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from thalweg.benchmark.speed.progress import StepProgress
from thalweg.cli.score import show_stages, slowest_in_words
from thalweg.cli.show.progress import counting, progress, steps, training
from thalweg.model import Progress
from thalweg.runtime.stages import Stage, for_each, run_stages


def terminal(shown: StringIO) -> Console:
    return Console(file=shown, force_terminal=True, width=120, color_system=None, _environ={"TERM": "xterm"})


def learned(epoch: int, held_out_loss: float | None) -> Progress:
    return Progress(
        epoch=epoch,
        num_epochs=3,
        loss=0.5,
        held_out_loss=held_out_loss,
        share=epoch / 3,
        flows_per_s=1000.0,
        seconds_left=90.0,
    )


def run_shown(console: Console) -> tuple[Stage, ...]:
    stages = (Stage("source", lambda _: ["a" * 1200]), Stage("write", for_each(lambda item: item)))
    with progress(console) as line:
        show_stages(line, stages)
        list(run_stages(stages))
    return stages


def test_a_terminal_is_shown_a_line_for_each_stage() -> None:
    shown = StringIO()
    run_shown(terminal(shown))
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


def test_a_terminal_holds_what_was_shown_last() -> None:
    shown = StringIO()
    with progress(terminal(shown)) as line:
        reading, learning = counting(line, "reading"), training(line)
        reading(1200)
        learning(learned(1, None))
        learning(learned(2, 0.4))
    last = shown.getvalue().rpartition("reading")[2]
    assert "learning " in last
    assert "epoch 2/3  loss 0.5000  held out 0.4000  1,000 flows/s  1 min 30 s left" in last


def test_a_terminal_counts_flows() -> None:
    shown = StringIO()
    with progress(terminal(shown)) as line:
        counting(line, "reading")(1200)
    assert "reading 1,200 flows  " in shown.getvalue()


def test_a_file_gets_a_line_for_each_epoch_with_its_own_loss() -> None:
    shown = StringIO()
    with progress(Console(file=shown)) as line:
        counting(line, "reading")(1200)
        learning = training(line)
        # The first step of epoch 2 still has the held-out loss of epoch 1.
        for p in (learned(1, None), learned(1, 0.4), learned(2, 0.4), learned(2, 0.3), learned(2, 0.3)):
            learning(p)
    assert [line.split("  ")[:3] for line in shown.getvalue().splitlines()] == [
        ["epoch 1/3", "loss 0.5000", "held out 0.4000"],
        ["epoch 2/3", "loss 0.5000", "held out 0.3000"],
    ]


def test_a_file_gets_a_line_for_each_step() -> None:
    shown = StringIO()
    with progress(Console(file=shown)) as line:
        report = steps(line, "throughput")
        report(StepProgress(0, 2, "d50", None))
        report(StepProgress(1, 2, "d200", 90.0))
    assert shown.getvalue() == "0/2  d50\n1/2  d200  about 1 min 30 s left\n"
