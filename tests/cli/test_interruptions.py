"""Processes that are killed, interrupted, or run out of disk: no half result, ever."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO

import pytest

from tests.cli.conftest import CONFIG
from tests.cli.process import ONE_THREAD, PATIENCE_S, Running, succeed, thalweg


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.partial"))


def stuck(folder: Path, *args: str) -> tuple[Running, int]:
    """Start a command that gives `late.csv` as its last input, and stays waiting there. Also returns its other end."""
    late = folder / "late.csv"
    os.mkfifo(late)
    process = Running(*args, folder=folder)
    ends: list[int] = []

    def opened() -> bool:
        try:
            ends.append(os.open(late, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads yet
            return False
        return True

    process.wait_until(opened)
    return process, ends[0]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_killed_score_leaves_nothing_under_its_name_and_the_next_cleans_up(folder: Path, ending: str) -> None:
    output = folder / f"scores.{ending}"
    process, end = stuck(folder, "score", "benign.thalweg", "traffic.csv", "late.csv", "-o", output.name)
    process.wait_until(lambda: partials(folder))
    (partial,) = partials(folder)
    process.wait_until(lambda: partial.stat().st_size > 1000)
    assert partial.name.startswith(f".scores.{ending}.")
    assert not output.exists()
    process.kill(signal.SIGKILL)
    assert process.finish().code == -signal.SIGKILL
    os.close(end)
    assert partials(folder) == [partial]
    assert not output.exists()
    succeed("score", "benign.thalweg", "traffic.csv", "-o", output.name, folder=folder)
    assert partials(folder) == []
    assert output.stat().st_size > 20_000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_older_result_survives_a_run_that_does_not_end(folder: Path, number: signal.Signals) -> None:
    output = folder / "scores.csv"
    output.write_text("last month's\n")
    process, end = stuck(folder, "score", "benign.thalweg", "traffic.csv", "late.csv", "-o", "scores.csv")
    process.kill(number)
    code = process.finish().code
    os.close(end)
    assert output.read_text() == "last month's\n"
    if number == signal.SIGINT:  # the process receives Ctrl-C and can clean up
        assert code == 130
        assert partials(folder) == []
    else:
        assert code == -number


def test_two_runs_to_the_same_name_leave_each_other_alone(folder: Path) -> None:
    process, end = stuck(folder, "score", "benign.thalweg", "traffic.csv", "late.csv", "-o", "scores.csv")
    succeed("score", "benign.thalweg", "traffic.csv", "-o", "scores.csv", folder=folder)
    assert len(partials(folder)) == 1
    os.write(end, b"".join((folder / "traffic.csv").read_bytes().splitlines(keepends=True)[:101]))
    os.close(end)
    assert process.finish().code == 0
    assert partials(folder) == []
    assert len((folder / "scores.csv").read_text().splitlines()) == 1 + 1200 + 100


def test_a_killed_fit_goes_on_from_its_checkpoint_and_ends_as_if_it_had_not_been(folder: Path) -> None:
    (folder / "long.toml").write_text(CONFIG.replace("epochs = 2", "epochs = 20\npatience = 20"))
    words = ("fit", "traffic.csv", "--steps", "200", "--config", "long.toml", "--window", "300")
    succeed(*words, "-o", "whole.thalweg", folder=folder)
    process = Running(*words, "-o", "m.thalweg", "--checkpoint", "kept", folder=folder)
    process.wait_until(lambda: "epoch 3/20" in process.err)
    process.kill(signal.SIGKILL)
    assert process.finish().code == -signal.SIGKILL
    assert not (folder / "m.thalweg").exists()
    done = succeed(*words, "-o", "m.thalweg", "--checkpoint", "kept", folder=folder)
    assert "continuing from the checkpoint kept" in done.err
    assert "epoch 1/20" not in done.err
    assert not (folder / "kept").exists()
    for name in ("whole", "m"):
        succeed("score", f"{name}.thalweg", "traffic.csv", "-o", f"{name}.csv", folder=folder)
    assert (folder / "m.csv").read_bytes() == (folder / "whole.csv").read_bytes()


def test_a_checkpoint_that_is_the_model_is_refused_before_any_work(folder: Path) -> None:
    done = thalweg("fit", "traffic.csv", "-o", "m.thalweg", "--checkpoint", "./m.thalweg", folder=folder)
    assert done.code == 2
    assert "--checkpoint and -o name the same file" in done.err
    assert not (folder / "m.thalweg").exists()


def test_ctrl_c_while_fitting_keeps_the_best_model_so_far(folder: Path) -> None:
    (folder / "long.toml").write_text(CONFIG.replace("epochs = 2", "epochs = 100000\npatience = 100000"))
    words = ("--steps", "200000", "--config", "long.toml", "--window", "300")
    process = Running("fit", "traffic.csv", "-o", "m.thalweg", *words, folder=folder)
    process.wait_until(lambda: "epoch 2/100000" in process.err)
    assert not (folder / "m.thalweg").exists()
    process.kill(signal.SIGINT)
    done = process.finish()
    assert done.code == 0
    assert ", interrupted; held-out loss " in done.out
    summary = succeed("info", "m.thalweg", "--json", folder=folder).json()["summary"]
    assert summary["stopped"] == "interrupted"
    assert 1 <= summary["best_epoch"] < 100_000
    succeed("score", "m.thalweg", "traffic.csv", "-o", "scores.csv", folder=folder)


@pytest.mark.parametrize("words", [("fit",), ("score", "benign.thalweg"), ("evaluate", "benign.thalweg")])
def test_ctrl_c_while_waiting_for_input_ends_it_at_once(folder: Path, words: tuple[str, ...]) -> None:
    # Not forked: Polars catches SIGINT when it is imported, and system calls would go on after it.
    output = () if words[0] == "evaluate" else ("-o", "result.csv")
    command = [sys.executable, "-m", "thalweg", *words, "traffic.csv", "-", *output]
    environment = {**os.environ, **ONE_THREAD}
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin is not None
        process.stdin.write((folder / "traffic.csv").read_bytes())
        process.stdin.flush()
        while num_unread(process.stdin) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    assert not (folder / "result.csv").exists()
    assert partials(folder) == []


def num_unread(pipe: IO[bytes]) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_full_disk_is_one_message_and_no_file(folder: Path, ending: str) -> None:
    process = Running("score", "benign.thalweg", "traffic.csv", "-o", f"s.{ending}", folder=folder, max_file_bytes=9999)
    done = process.finish()
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write s.{ending}: ")
    assert done.err.count("\n") == 1
    assert partials(folder) == []
    assert not (folder / f"s.{ending}").exists()
