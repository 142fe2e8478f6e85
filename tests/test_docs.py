"""README, CONTRIBUTING and docs/ name only files, modules, tests and links that exist, and leave no command out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command

from thalweg.cli.app import app
from thalweg.errors import ThalwegError
from thalweg.ingest.sources import SOURCES
from thalweg.tally import MEANINGS

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "src" / "thalweg"
PAGES: Final = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

OF_THE_READER: Final = frozenset({"demo/", "flows/", "scores/", "spool/"})
"""Folders that a command makes, or that an example takes for granted."""
NOT_BUILT: Final = frozenset({"ingest/sflow/", "explain/", "web/", "cluster/"})
"""Rooms that docs/design.md announces."""

FENCED: Final = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
SPAN: Final = re.compile(r"`([^`\n]+)`")
PATH: Final = re.compile(r"(?<![\w/.*-])[\w.*-]+(?:/[\w.*-]+)*/?")
MODULE: Final = re.compile(r"(?<![\w/.-])thalweg((?:\.[A-Za-z_]\w*)+)")
DOTTED: Final = re.compile(r"([a-z_]+(?:\.[A-Za-z_]\w*)+)(?:\(\))?")
NAME_IN_FILE: Final = re.compile(r"`([A-Za-z_]\w*)`(?: \(| in )`([\w/]+\.py)`")
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _exists(path: str) -> bool:
    return any(next(base.glob(path.rstrip("/")), None) is not None for base in (ROOT, PACKAGE))


def _is_ours(path: str) -> bool:
    """Whether a word with these letters can only mean a file of this repository."""
    first, slash, _ = path.partition("/")
    if first == ".":
        return False
    if slash and first in ("src", "tests", "docs", "studies"):
        return True
    return path.endswith(".py") or (bool(slash) and (PACKAGE / first).is_dir())


def _resolves(dotted: str) -> bool:
    """Whether `a.b.c` is a module, or something in one, of the package."""
    thing: Any = import_module("thalweg")
    name = "thalweg"
    for part in dotted.split("."):
        name = f"{name}.{part}"
        try:
            thing = getattr(thing, part)
        except AttributeError:
            try:
                thing = import_module(name)
            except ModuleNotFoundError:
                return part in getattr(thing, "__dataclass_fields__", ())
    return True


def _slug(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def _wrong_paths(text: str) -> Iterator[str]:
    spans = SPAN.findall(FENCED.sub("", text))
    blocks = [line for block in FENCED.findall(text) for line in block.splitlines()]
    for words in (*spans, *blocks):
        for path in PATH.findall(words):
            if _is_ours(path) and path not in NOT_BUILT and not _exists(path):
                yield path
    for span in spans:  # a folder alone, as `model/`: there is no room without a folder
        is_folder = re.fullmatch(r"[a-z_]+(/[a-z_]+)*/", span) is not None
        if is_folder and span not in OF_THE_READER | NOT_BUILT and not _exists(span):
            yield span


def _wrong_names(text: str) -> Iterator[str]:
    for dotted in MODULE.findall(text):
        if not _resolves(dotted[1:]):
            yield f"thalweg{dotted}"
    for span in SPAN.findall(FENCED.sub("", text)):
        found = DOTTED.fullmatch(span)
        if found is not None and not span.endswith((".py", ".md", ".json")):
            room = found[1].split(".")[0]
            is_room = (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()
            if is_room and not _resolves(found[1]):
                yield span
    for name, path in NAME_IN_FILE.findall(text):
        files = [base / path for base in (ROOT, PACKAGE) if (base / path).is_file()]
        if files and not any(re.search(rf"\b{name}\b", file.read_text()) for file in files):
            yield f"{name} in {path}"


def _wrong_tests(text: str) -> Iterator[str]:
    known = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        if f"def {name}(" not in known:
            yield name


def _wrong_links(text: str, page: Path) -> Iterator[str]:
    for link in LINK.findall(FENCED.sub("", text)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        if not file.exists():
            yield link
        elif anchor and file.suffix == ".md":
            linked = text if file == page else file.read_text()
            if anchor not in map(_slug, HEADING.findall(FENCED.sub("", linked))):
                yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text()
    wrong = [*_wrong_paths(text), *_wrong_names(text), *_wrong_tests(text), *_wrong_links(text, page)]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see `ingest/dialects.py`", "ingest/dialects.py"),
        ("see `gone.py`", "gone.py"),
        ("see `baselines/`", "baselines/"),
        ("see `ingest/netflow/gone.csv`", "ingest/netflow/gone.csv"),
        ("```\npython studies/gone.py sets/\n```", "studies/gone.py"),
        ("tests in `tests/gone/`", "tests/gone/"),
        ("see `src/thalweg/gone/*.py`", "src/thalweg/gone/*.py"),
    ],
)
def test_a_path_that_is_not_there_is_found(text: str, wrong: str) -> None:
    assert set(_wrong_paths(text)) == {wrong}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from `thalweg.baselines.rivals`", "thalweg.baselines.rivals"),
        ("```python\nthalweg.ingest.Gone()\n```", "thalweg.ingest.Gone"),
        ("by `tables.gone`", "tables.gone"),
        ("by `detect.threshold.gone()`", "detect.threshold.gone()"),
        ("`Gone` in `tally.py`", "Gone in tally.py"),
    ],
)
def test_a_name_that_is_not_there_is_found(text: str, wrong: str) -> None:
    assert list(_wrong_names(text)) == [wrong]


def test_a_test_that_is_not_there_is_found() -> None:
    gone = "test_nothing_of_this_" + "name"
    assert list(_wrong_tests(f"`{gone}`, `test_a_test_that_is_not_there_is_found`")) == [gone]


@pytest.mark.parametrize("link", ["gone.md", "#gone", "formats.md#gone", "../docs/gone.png"])
def test_a_link_that_leads_nowhere_is_found(link: str) -> None:
    page = ROOT / "docs" / "live.md"
    text = f"# Here\n[a](#here), [b](formats.md#dialects), [c]({link}), [d](https://example.org/gone)"
    assert list(_wrong_links(text, page)) == [link]


def test_what_exists_is_not_called_wrong() -> None:
    text = (
        "`tables.py`, `ingest/netflow/`, `studies/*.py`, `docs/img/thalweg.svg`, `scores/`, `any.csv`, `thalweg.read`, "
        "`tally.MEANINGS`, `thalweg.testing.check_feed`, `MEANINGS` in `tally.py`, `flow.start`, `office.thalweg`"
    )
    assert [*_wrong_paths(text), *_wrong_names(text)] == []


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for word, sub in command.commands.items():
            yield from _commands(sub, f"{name} {word}")
    else:
        yield name, command


def test_every_command_and_every_option_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for name, command in _commands(get_command(app), "thalweg"):
        assert re.search(rf"{name}\b", text), f"no page names `{name}`"
        for option in (word for given in command.params for word in given.opts if word.startswith("--")):
            assert re.search(rf"{option}(?![\w-])", text), f"no page names {option} of `{name}`"


def test_every_count_and_every_source_is_documented() -> None:
    live, formats = ((ROOT / "docs" / name).read_text() for name in ("live.md", "formats.md"))
    assert [name for name in MEANINGS if f"`{name}`" not in live + formats] == []
    assert [scheme for scheme in SOURCES if f"`{scheme}:" not in live] == []


def test_the_design_has_the_layers_of_the_import_contract() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    plain = [re.sub(r"thalweg\.|[()]", "", layer).replace(" :", ",") for layer in layers]
    assert len(plain) == 11
    assert "```\n" + "\n".join(plain) + "\n```" in design
    for contract in (one for one in contracts if one["type"] == "forbidden" and "torch" in one["forbidden_modules"]):
        rooms = ", ".join(f"`{module.removeprefix('thalweg.')}`" for module in sorted(contract["source_modules"]))
        assert f"no torch in {rooms}, not even" in design


def _errors(error: type[ThalwegError]) -> Iterator[type[ThalwegError]]:
    for sub in error.__subclasses__():
        yield sub
        yield from _errors(sub)


def test_every_error_is_in_the_tree_of_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    of_the_package = [error for error in _errors(ThalwegError) if error.__module__ == "thalweg.errors"]
    assert [error.__name__ for error in of_the_package if error.__name__ not in design] == []
