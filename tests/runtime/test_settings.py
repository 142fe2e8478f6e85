"""Plain values -> settings -> plain values, and every way in which a value can be wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from thalweg.errors import ConfigError
from thalweg.runtime.settings import as_values, field_notes, make_settings, with_values


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    depth: int = 1
    """How deep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Not about a field."""

    name: str
    """What it is called,
    in two lines."""
    folder: Path = Path("here")
    width: int = 4
    rate: float = 0.5
    on: bool = True
    odds: tuple[float, ...] = (1.0, 2.0)
    files: tuple[Path, ...] = ()
    shares: Mapping[str, int] = field(default_factory=dict)
    keep: Literal["all", "some"] = "all"
    steps: int | None = None
    inner: Inner = field(default_factory=Inner)
    several: tuple[Inner, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 2:
            raise ConfigError("width is at least 2")


FULL: dict[str, Any] = {
    "name": "n", "folder": "there", "width": 8, "rate": 1, "on": False, "odds": [3, 4.5], "files": ["a"],
    "shares": {"*": 3}, "keep": "some", "steps": 5, "inner": {"depth": 2}, "several": [{"depth": 3}, {}],
}  # fmt: skip


def test_every_kind_of_value_is_made_and_given_back() -> None:
    made = make_settings(Settings, FULL, "[x]")
    found: list[Any] = [made.folder, made.files, made.odds, made.several]
    assert found == [Path("there"), (Path("a"),), (3, 4.5), (Inner(depth=3), Inner())]
    assert as_values(made) == {**FULL, "several": [{"depth": 3}, {"depth": 1}]}
    assert make_settings(Settings, json.loads(json.dumps(as_values(made))), "[x]") == made


def test_what_is_not_given_keeps_its_default_or_what_it_was() -> None:
    made = make_settings(Settings, {"name": "n"}, "[x]")
    assert made == Settings(name="n")
    assert with_values(made, {"width": 9}, "[x]") == Settings(name="n", width=9)
    assert make_settings(Settings, as_values(made), "[x]") == made
    with pytest.raises(ConfigError, match=r"^\[x\] lacks name$"):
        make_settings(Settings, {}, "[x]")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("widht", 8, "[x] has no setting 'widht': did you mean 'width'? Known: name, folder, width, rate,"),
        ("zzz", 8, "[x] has no setting 'zzz'. Known: name, folder,"),
        ("width", 8.0, "[x] width is a whole number, not 8.0"),
        ("width", True, "[x] width is a whole number, not True"),
        ("rate", float("nan"), "[x] rate is a number, not nan"),
        ("on", 1, "[x] on is true or false, not 1"),
        ("name", 3, "[x] name is text in quotes, not 3"),
        ("folder", 3, "[x] folder is a path in quotes, not 3"),
        ("odds", 1, "[x] odds is a list of numbers, not 1"),
        ("odds", [1, "x"], "[x] odds is a list of numbers, not [1, 'x']"),
        ("files", [1], "[x] files is a list of paths in quotes, not [1]"),
        ("keep", "none", "[x] keep is one of 'all', 'some', not 'none'"),
        ("shares", 3, "[x] [shares] is a section of its own, not 3"),
        ("shares", {"*": "x"}, "[x] [shares] * is a whole number, not 'x'"),
        ("inner", 3, "[x] [inner] is a section of its own, not 3"),
        ("inner", {"deep": 3}, "[x] [inner] has no setting 'deep': did you mean 'depth'? Known: depth"),
        ("several", 3, "[x] [[several]] is the title of one or more sections, not 3"),
        ("several", [{}, {"depth": "x"}], "[x] [[several]] 2 depth is a whole number, not 'x'"),
        ("width", 1, "width is at least 2"),
    ],
)
def test_a_wrong_value_says_where_it_stands_and_what_fits(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_settings(Settings, {"name": "n", name: value}, "[x]")
    assert str(caught.value).startswith(message)


def test_notes_stand_below_their_fields() -> None:
    assert field_notes(Settings) == {"name": "What it is called,\nin two lines."}
    assert field_notes(Inner) == {"depth": "How deep."}
    assert field_notes(int) == {}
