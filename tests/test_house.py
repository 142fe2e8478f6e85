"""Habits of the source that no linter checks."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import thalweg

SOURCE: Final = Path(thalweg.__file__).parent
MOST_BY_POSITION: Final = 6
MOST_WITH_A_PREFIX: Final = 2
COMPILED: Final = {"compiled", "compiled_without_refcounts", "kernel"}
"""Decorators of Numba's and Triton's functions, which take arguments by position only."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


AT_ROOT: Final = {
    "__init__", "__main__", "addresses", "batch", "errors", "selection", "tables", "tally", "windows",
}  # fmt: skip
"""The words that all rooms use, and the two ways in; whatever else comes belongs into a room."""
LAYERS: Final = 11


def functions() -> Iterator[tuple[str, Function, bool]]:
    """Yield every function of the source, where it is, and whether it is a method."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        methods = {child for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body}
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}", node, node in methods


def decorators(function: Function) -> set[str]:
    called = (one.func if isinstance(one, ast.Call) else one for one in function.decorator_list)
    return {ast.unparse(one).rpartition(".")[2] for one in called}


def test_no_function_takes_more_than_six_arguments_by_position() -> None:
    too_many = []
    for where, function, is_method in functions():
        given = decorators(function)
        num = len(function.args.posonlyargs) + len(function.args.args) - (is_method and "staticmethod" not in given)
        if num > MOST_BY_POSITION and not given & COMPILED:
            too_many.append(f"{where} takes {num}")
    assert not too_many


def test_the_root_holds_the_words_of_all_rooms_and_nothing_else() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} == AT_ROOT


@pytest.mark.parametrize("root", [SOURCE, Path(__file__).parent], ids=["src", "tests"])
def test_no_file_is_a_satellite_of_its_neighbour(root: Path) -> None:
    """A family of files with one prefix is a room that nobody built."""
    satellites = []
    for folder in (root, *(path for path in sorted(root.rglob("*")) if path.is_dir())):
        stems = {path.stem.removeprefix("test_") for path in folder.glob("*.py")} - {"__init__"}
        satellites += [f"{folder}/{stem}" for stem in stems if any(stem.startswith(f"{one}_") for one in stems)]
        prefixes = Counter(stem.partition("_")[0] for stem in stems if "_" in stem)
        satellites += [f"{folder}/{one}_*" for one, num in prefixes.items() if num > MOST_WITH_A_PREFIX]
    assert not satellites


def test_no_file_has_a_name_that_says_nothing() -> None:
    said = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert not [path for path in SOURCE.rglob("*") if path.stem in said]


def test_the_import_contract_has_the_layers_of_the_design() -> None:
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (one["layers"] for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    assert len(layers) == LAYERS
    named = {part.strip(" ()").removeprefix("thalweg.") for layer in layers for part in re.split("[|:]", layer)}
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert rooms | AT_ROOT - {"__init__", "__main__"} <= named
