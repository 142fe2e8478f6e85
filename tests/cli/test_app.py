"""The command line as a whole: its start, and that every command and option has help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.process import python, thalweg
from thalweg import __version__
from thalweg.cli.app import app

SLOW = {"torch", "polars", "numpy", "scipy", "sklearn", "pyarrow", "altair"}
HOUSE = Path(__file__).parents[2]


def commands(group: Any, before: str = "") -> dict[str, Any]:
    """Every command and group below one, by what is typed for it."""
    found = {}
    for name, command in group.commands.items():
        found[before + name] = command
        if hasattr(command, "commands"):
            found |= commands(command, f"{before}{name} ")
    return found


COMMANDS = commands(typer.main.get_command(app))


def test_the_module_runs_like_the_command(tmp_path: Path) -> None:
    for program in ([sys.executable, "-m", "thalweg"], [str(Path(sys.executable).with_name("thalweg"))]):
        done = subprocess.run([*program, "--version"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"thalweg {__version__}\n", "")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example_and_does_not_wait_for_torch(tmp_path: Path, command: str) -> None:
    say = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    words = [*command.split(), "--help"]
    code = f"{say}; sys.argv = ['thalweg', *{words}]; from thalweg.cli.app import main; main()"
    done = python("-c", code, folder=tmp_path)
    assert done.returncode == 0
    assert "thalweg.cli.app" in done.stderr.split()
    assert not SLOW & set(done.stderr.split())
    assert f"Example: thalweg {command} " in done.stdout if command else "thalweg demo" in done.stdout


def test_a_mistyped_command_or_option_ends_with_code_2(tmp_path: Path) -> None:
    for words in (["fti"], ["fit", "x.csv"], ["info", "--bogus", "m"], ["fit", "x.csv", "-o", "m", "--steps", "0"]):
        done = thalweg(*words, folder=tmp_path)
        assert (done.code, done.out) == (2, "")
        assert "Usage: thalweg" in done.err


def test_no_command_is_lost() -> None:
    files = {path.stem for path in (HOUSE / "src/thalweg/cli").glob("*.py")} - {"__init__"}
    groups = {name for name, command in COMMANDS.items() if hasattr(command, "commands")}
    assert files - {"app", "options", "stream", "config_file"} == {n for n in COMMANDS if " " not in n} - groups
    for group in groups:
        files = {path.stem for path in (HOUSE / "src/thalweg/cli" / group).glob("*.py")} - {"__init__", "options"}
        assert files == {name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{group} ")}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_says_what_it_does(command: str) -> None:
    assert COMMANDS[command].help
    assert f"`thalweg {command} " in COMMANDS[command].epilog, "no example"
    assert [option.name for option in COMMANDS[command].params if not option.help] == []
