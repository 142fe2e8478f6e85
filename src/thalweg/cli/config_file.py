"""Reads one TOML file into settings; an unknown key is an error that lists the known ones."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, final, get_args, get_origin, get_type_hints

from thalweg.errors import ConfigError, SourceError

SECTIONS: Final = ("map", "model", "training", "noise", "kafka")

_T = TypeVar("_T")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FileConfig:
    """The sections of a configuration file; a section that the file lacks is empty.

    map: declared column -> column of the source. model, training, noise: fields of ModelConfig, TrainingConfig and
    NoiseConfig. kafka: settings of librdkafka, such as "security.protocol".
    """

    map: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    kafka: dict[str, Any] = field(default_factory=dict)


def read_config(path: Path | None) -> FileConfig:
    """Read a TOML file; None gives an empty configuration.

    Raises SourceError if the file cannot be read; ConfigError if it is not TOML, has an unknown section, or maps a
    column to something other than text.
    """
    if path is None:
        return FileConfig()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for name, section in content.items():
        if name not in SECTIONS or not isinstance(section, dict):
            raise ConfigError(f"{path}: unknown section [{name}]. Known: {', '.join(f'[{s}]' for s in SECTIONS)}")
    for name, column in content.get("map", {}).items():
        if not isinstance(column, str):
            raise ConfigError(f"{path}: [map] {name} = {column!r}: name a column, in quotes")
    return FileConfig(**content)


def parse_map(pairs: list[str]) -> dict[str, str]:
    """Parse the column mappings of --map.

    >>> parse_map(["src_addr=Source IP", "fwd_bytes=Bytes"])
    {'src_addr': 'Source IP', 'fwd_bytes': 'Bytes'}

    Raises ConfigError if one is not NAME=COLUMN.
    """
    mapping = {}
    for pair in pairs:
        name, found, column = pair.partition("=")
        if not found or not name.strip() or not column:
            raise ConfigError(f"--map {pair!r}: write it as --map src_addr=COLUMN")
        mapping[name.strip()] = column
    return mapping


def with_fields(default: _T, given: dict[str, Any], section: str) -> _T:
    """Return a config dataclass with some of its fields replaced; TOML lists become tuples.

    Raises ConfigError if a field is unknown, and lists the known ones; also if a value has the wrong type or is out of
    range.
    """
    known = [f.name for f in fields(default)]  # type: ignore[arg-type]  # every _T here is a dataclass
    kinds = get_type_hints(type(default))
    for name in given:
        if name not in known:
            raise ConfigError(f"[{section}] has no setting {name!r}. Known: {', '.join(known)}")
        _check_kind(f"[{section}] {name}", given[name], kinds[name])
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    try:
        return replace(default, **values)  # type: ignore[type-var]  # same
    except TypeError as error:
        raise ConfigError(f"[{section}]: {error}") from error


def _check_kind(setting: str, value: Any, hint: Any) -> None:
    if isinstance(hint, UnionType):  # `int | None`: TOML has no word for None
        (hint,) = (one for one in get_args(hint) if one is not NoneType)
    if is_dataclass(hint):
        wanted, fits = "a section of its own", isinstance(value, hint)  # type: ignore[arg-type]  # a class, not an instance
    elif hint is bool:
        wanted, fits = "true or false", isinstance(value, bool)
    elif hint is int:
        wanted, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif hint is float:
        wanted, fits = "a number", _is_number(value)
    elif get_origin(hint) is tuple:
        wanted, fits = "a list of numbers", isinstance(value, list | tuple) and all(map(_is_number, value))
    else:
        wanted, fits = "text in quotes", isinstance(value, str)
    if not fits:
        raise ConfigError(f"{setting} is {wanted}, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
