"""Habits of the source that no linter checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import thalweg

SOURCE: Final = Path(thalweg.__file__).parent
MOST_BY_POSITION: Final = 6
COMPILED: Final = {"compiled", "compiled_without_refcounts", "kernel"}
"""Decorators of Numba's and Triton's functions, which take arguments by position only."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


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
