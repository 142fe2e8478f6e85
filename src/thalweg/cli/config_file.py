"""Configuration files in TOML: sections for `fit`, `score` and `evaluate`, and whole runs, read and written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, final, get_type_hints

from thalweg.errors import ConfigError, SourceError
from thalweg.runtime.settings import as_values, field_notes, is_list_of_sections, is_section, make_settings

if TYPE_CHECKING:
    from thalweg.live.config import RunConfig


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FileConfig:
    """What a configuration file says, section by section; empty if it says nothing.

    map: declared column -> the source's. model, training, noise: fields of ModelConfig, TrainingConfig and
    NoiseConfig.
    """

    map: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises SourceError if it cannot be read, and ConfigError if it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def read_config(path: Path | None) -> FileConfig:
    """Read the sections of a TOML file; None gives an empty configuration.

    Raises SourceError if the file cannot be read, and ConfigError if it is not TOML or has an unknown section.
    """
    if path is None:
        return FileConfig()
    content = read_toml(path)
    return make_settings(FileConfig, content, f"{path}:")


def parse_map(pairs: list[str]) -> dict[str, str]:
    """Parse the column mappings of --map.

    >>> parse_map(["src_addr=Source IP", "fwd_bytes=Bytes"])
    {'src_addr': 'Source IP', 'fwd_bytes': 'Bytes'}

    Raises ConfigError if one has no `=`.
    """
    mapping = {}
    for pair in pairs:
        name, found, column = pair.partition("=")
        if not found or not name.strip() or not column:
            raise ConfigError(f"--map {pair!r}: write it as --map src_addr=COLUMN")
        mapping[name.strip()] = column
    return mapping


def config_in_toml(config: RunConfig) -> str:
    """Write a whole configuration, with a comment on every setting; `thalweg run` reads it back."""
    lines: list[str] = []
    hints, notes = _about(config)
    for name in hints:
        value = getattr(config, name)
        if value is None:
            continue
        lines += ["", *_comment(notes[name])]
        if is_list_of_sections(hints[name]):
            explained: set[str] = set()
            for number, section in enumerate(value):
                lines += [*([""] if number else []), f"[[{name}]]", *_section(section, name, explained)]
        else:
            lines += [f"[{name}]", *_section(value, name, set())]
    return "\n".join(lines[1:]) + "\n"


def _section(section: Any, title: str, explained: set[str]) -> Iterator[str]:
    """Yield a section's lines below its title: settings, then sections inside it. explained: settings already noted."""
    hints, notes = _about(section)
    for name in sorted(hints, key=lambda name: is_section(hints[name])):  # TOML: what follows a title is below it
        value = as_values(getattr(section, name))
        if name not in explained:
            yield from _comment(notes[name])
            explained.add(name)
        if is_section(hints[name]):
            yield f"[{title}.{name}]"
            yield from (f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items())
        else:
            yield f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"


def _about(settings: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the types of settings by name, in their order, and what each means."""
    kind = type(settings)
    hints = get_type_hints(kind)
    notes = {name: note for base in reversed(kind.__mro__) for name, note in field_notes(base).items()}
    return {field.name: hints[field.name] for field in fields(settings)}, notes


def _toml(value: Any) -> str:
    """Write text, a number, true or false, or a list of them: as JSON does, but what is unprintable is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in text)


def _comment(note: str) -> list[str]:
    return [f"# {line}" for line in note.splitlines()]
