"""Settings: frozen dataclasses from plain values, as TOML and JSON hold them, and back.

A field's type says which values fit; the text below a field says what it means. There is no second list of fields.
"""

from __future__ import annotations

import ast
import inspect
import reprlib
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from thalweg.errors import ConfigError

T = TypeVar("T")

_WANTED: Final[Mapping[Any, tuple[str, str]]] = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text in quotes", "texts in quotes"),
    Any: ("any value", "values"),
    Path: ("a path in quotes", "paths in quotes"),
}
"""One value of a type in words, and several."""


def make_settings(kind: type[T], values: Mapping[str, Any], place: str) -> T:
    """Make settings from plain values; fields that are not given keep their defaults.

    place: where the values stand, for messages: "[window]".

    Raises ConfigError if a field is unknown (naming the nearest known one), missing, or has a value of another kind.
    """
    given = fields_from(kind, values, place)
    missing = [f.name for f in fields(kind) if f.name not in given and f.default is f.default_factory is MISSING]  # type: ignore[arg-type]  # every kind is a dataclass
    if missing:
        raise ConfigError(f"{place} lacks {missing[0]}")
    return kind(**given)


def with_values(settings: T, values: Mapping[str, Any], place: str) -> T:
    """Return settings with some fields replaced by plain values. Raises ConfigError as `make_settings` does."""
    return replace(settings, **fields_from(type(settings), values, place))  # type: ignore[type-var]  # same


def check_sections(kind: type, values: Mapping[str, Any], place: str) -> None:
    """Check that what should be sections are sections, so that options can be put into them.

    Raises ConfigError if one is not, or is unknown.
    """
    hints = _check_known(kind, values, place)
    for name, value in values.items():
        _check_section(hints[name], value, f"{place} {_titled(name, hints[name])}")


def as_values(settings: Any) -> Any:
    """Return settings as JSON values, which `make_settings` takes; what is not set is None."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: as_values(getattr(settings, f.name)) for f in fields(settings)}
    if isinstance(settings, Mapping):
        return {str(name): as_values(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [as_values(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


@cache
def field_notes(kind: type) -> Mapping[str, str]:
    """Return what each field means: the text that stands below it in the source; empty if there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef), "the source of a class"
    found = {}
    for one, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[one.target.id] = inspect.cleandoc(after.value.value)
    return found


def _check_known(kind: type, values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the types of a kind's fields by name. Raises ConfigError if a name in `values` is none of them."""
    hints = get_type_hints(kind)
    known = {f.name: _titled(f.name, hints[f.name]) for f in fields(kind)}
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            is_title = all(title.startswith("[") for title in known.values())
            unknown, guess = (
                (f"section [{name}]", known) if is_title else (f"setting {name!r}", {n: repr(n) for n in known})
            )
            raise ConfigError(
                f"{place} has no {unknown}{f': did you mean {guess[near[0]]}?' if near else '.'} "
                f"Known: {', '.join(known.values())}"
            )
    return hints


def fields_from(kind: type, values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the fields that plain values give, checked. Raises ConfigError as `make_settings` does."""
    hints = _check_known(kind, values, place)
    return {
        name: value_of(hints[name], value, f"{place} {_titled(name, hints[name])}") for name, value in values.items()
    }


def is_section(hint: Any) -> bool:
    """Whether values of a type are settings themselves, and stand in a section of their own."""
    return is_dataclass(_without_none(hint)) or get_origin(hint) is Mapping


def is_list_of_sections(hint: Any) -> bool:
    """Whether values of a type are several settings, each in a section of its own."""
    return get_origin(hint) is tuple and is_dataclass(get_args(hint)[0])


def _titled(name: str, hint: Any) -> str:
    """Write a field's name as it stands in TOML."""
    return f"[{name}]" if is_section(hint) else f"[[{name}]]" if is_list_of_sections(hint) else name


def _without_none(hint: Any) -> Any:
    """Return the type behind `int | None`."""
    if not isinstance(hint, UnionType):
        return hint
    (one,) = (one for one in get_args(hint) if one is not NoneType)
    return one


def value_of(hint: Any, value: Any, place: str) -> Any:
    """Return a plain value as the type `hint` holds it. Raises ConfigError if it is of another kind.

    >>> value_of(tuple[float, ...], [1, 2.5], "shapes")
    (1, 2.5)
    """
    if value is None and isinstance(hint, UnionType):
        return None
    hint = _without_none(hint)
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, hint):
        return value
    _check_section(hint, value, place)
    if is_dataclass(hint):
        assert isinstance(hint, type), "a hint is a class"
        choose = getattr(hint, "from_values", None)  # the values decide which class it is
        return make_settings(hint, value, place) if choose is None else choose(value, place)
    if get_origin(hint) is tuple:
        return _list(hint, value, place)
    if get_origin(hint) is Mapping:
        return {str(name): value_of(get_args(hint)[1], inner, f"{place} {name}") for name, inner in value.items()}
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{place} is one of {', '.join(map(repr, get_args(hint)))}, not {_shown(value)}")
        return value
    if not _fits(hint, value):
        raise ConfigError(f"{place} is {_WANTED[hint][0]}, not {_shown(value)}")
    return Path(value) if hint is Path else value


def _check_section(hint: Any, value: Any, place: str) -> None:
    if is_list_of_sections(hint):
        if not isinstance(value, list | tuple) or not all(
            isinstance(one, Mapping | get_args(hint)[0]) for one in value
        ):
            raise ConfigError(f"{place} is the title of one or more sections, not {_shown(value)}")
    elif is_section(hint) and not isinstance(value, Mapping):
        raise ConfigError(f"{place} is a section of its own, not {_shown(value)}")


def _list(hint: Any, value: Any, place: str) -> tuple[Any, ...]:
    inner = get_args(hint)[0]
    if is_dataclass(inner):
        return tuple(value_of(inner, one, f"{place} {number}") for number, one in enumerate(value, 1))
    if not isinstance(value, list | tuple) or not all(_fits(inner, one) for one in value):
        raise ConfigError(f"{place} is a list of {_WANTED[inner][1]}, not {_shown(value)}")
    return tuple(Path(one) if inner is Path else one for one in value)


def _shown(value: Any) -> str:
    """Write a value for a message, in a line of bounded length."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    return short.repr(value)


def _fits(hint: Any, value: Any) -> bool:
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str | Path if hint is Path else hint)
