"""Optional packages: the line to type if one is missing, before any work is done."""

from __future__ import annotations

from importlib.util import find_spec

from thalweg.errors import MissingExtraError


def need(*packages: str, extra: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Raises MissingExtraError if one is not.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(f"this needs {package}, which is not installed: pip install 'thalweg[{extra}]'")
