"""One TOML file, and invalid settings in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from thalweg.cli.config_file import FileConfig, parse_map, read_config
from thalweg.errors import ConfigError, SourceError
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.noise import NoiseConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.runtime.settings import with_values


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    width: int = 4
    steps: int | None = None
    rate: float = 0.5
    on: bool = True
    odds: tuple[float, ...] = (1.0, 2.0)
    name: str = "a"
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.width < 2:
            raise ConfigError("width is at least 2")


def config(tmp_path: Path, text: str) -> FileConfig:
    (tmp_path / "c.toml").write_text(text)
    return read_config(tmp_path / "c.toml")


def test_a_file_says_its_sections_and_no_file_says_nothing(tmp_path: Path) -> None:
    text = '[map]\nsrc_addr = "Source IP"\n[model]\nwidth = 8\n[noise]\nodds = [1, 0.5]\n'
    assert config(tmp_path, text) == FileConfig(
        map={"src_addr": "Source IP"}, model={"width": 8}, noise={"odds": [1, 0.5]}
    )
    assert read_config(None) == config(tmp_path, "") == FileConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("width 8", r"c\.toml is not TOML: .*line 1"),
        ("[model]\nwidth = 8\nwidth = 9", r"c\.toml is not TOML"),
        (
            "[modle]\nwidth = 8",
            r"c\.toml: has no section \[modle\]: did you mean \[model\]\? Known: \[map\], \[model\], ",
        ),
        ("model = 8", r"c\.toml: \[model\] is a section of its own, not 8"),
        ("[map]\nsrc_addr = 3", r"c\.toml: \[map\] src_addr is text in quotes, not 3"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(tmp_path, text)


def test_bytes_that_are_not_text_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe[")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config(tmp_path / "c.toml")


def test_a_configuration_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SourceError, match="cannot read the configuration"):
            read_config(path)


def test_fields_are_replaced_and_lists_become_tuples() -> None:
    given = {"width": 8, "steps": 3, "rate": 1, "on": False, "odds": [3, 4.5], "name": "b"}
    assert with_values(Settings(), given, "[x]") == Settings(
        width=8, steps=3, rate=1, on=False, odds=(3, 4.5), name="b"
    )
    assert with_values(Settings(width=6), {"inner": Inner(depth=2)}, "[x]") == Settings(width=6, inner=Inner(depth=2))
    assert with_values(Settings(width=6), {}, "[x]") == Settings(width=6)


def test_an_unknown_field_lists_the_known_ones() -> None:
    known = r"width, steps, rate, on, odds, name, \[inner\]"
    with pytest.raises(ConfigError, match=rf"^\[x\] has no setting 'wide': did you mean 'width'\? Known: {known}$"):
        with_values(Settings(), {"width": 8, "wide": 8}, "[x]")


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("width", 8.0, "a whole number"),
        ("width", True, "a whole number"),
        ("width", "8", "a whole number"),
        ("steps", 2.5, "a whole number"),
        ("rate", "0.5", "a number"),
        ("rate", float("nan"), "a number"),
        ("rate", False, "a number"),
        ("on", 1, "true or false"),
        ("on", "no", "true or false"),
        ("odds", 1, "a list of numbers"),
        ("odds", [1, "x"], "a list of numbers"),
        ("name", 3, "text in quotes"),
        ("inner", 2, "a section of its own"),
    ],
)
def test_a_value_of_another_kind_says_which_is_wanted(name: str, value: Any, kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_values(Settings(), {name: value}, "[x]")
    assert str(caught.value) == f"[x] {'[inner]' if name == 'inner' else name} is {kind}, not {value!r}"


def test_a_field_s_own_check_still_runs() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        with_values(Settings(), {"width": 1}, "[x]")


def test_every_setting_of_the_model_can_be_given_as_its_default() -> None:
    for default in (ModelConfig(), NoiseConfig()):
        given = {n: list(v) if isinstance(v, tuple) else v for n, v in default_fields(default).items()}
        assert with_values(default, given, "[x]") == default
    training = {n: v for n, v in default_fields(TrainingConfig()).items() if v is not None}
    assert with_values(TrainingConfig(), training, "[training]") == TrainingConfig()


def default_fields(made: Any) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


@pytest.mark.parametrize("pair", ["src_addr", "=x", " =x", "src_addr="])
def test_what_is_no_mapping(pair: str) -> None:
    with pytest.raises(ConfigError, match="write it as --map src_addr=COLUMN"):
        parse_map([pair])


def test_a_column_s_name_may_hold_anything() -> None:
    assert parse_map(["src_addr= a = b "]) == {"src_addr": " a = b "}
