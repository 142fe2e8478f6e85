"""A model as one file: safetensors for the numbers, JSON in its header for the rest. Nothing in it can run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from thalweg.errors import ModelFormatError, SinkError, SourceError
from thalweg.runtime.whole_file import whole_file

FORMAT_VERSION: Final = 4
"""The version of the file format; a file of another version is refused."""
_KEY: Final = "thalweg"
_PARTS: Final = ("kind", "settings", "threshold", "calibration", "profile", "seed", "span_s", "summary")


def write_model(path: Path, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a model file whole or not at all.

    Raises SinkError if the folder cannot be written.
    """
    text = json.dumps({"format_version": FORMAT_VERSION, **header}, sort_keys=True)
    try:
        with whole_file(path) as partial:
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial, metadata={_KEY: text})
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror or error}. Choose another place with -o") from error


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a model file. Returns: its header; its tensors, on the CPU.

    Raises SourceError if there is no such file; ModelFormatError if it is foreign, truncated, or of another format
    version, saying which.
    """
    header = read_header(path)
    with safe_open(path, framework="pt") as file:
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict


def read_header(path: Path) -> dict[str, Any]:
    """Read a model file's header alone; raises as `read_model` does."""
    if not path.is_file():
        raise SourceError(f"no model file {path}: make one with `thalweg fit FLOWS -o {path}`")
    if not os.access(path, os.R_OK):  # safetensors reports that as a missing file
        raise SourceError(f"the model file {path} cannot be read: let its owner give this user the right to")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ModelFormatError(_why_unreadable(path, error)) from error
    except OSError as error:
        raise SourceError(f"the model file {path} cannot be read: {error.strerror or error}") from error
    if _KEY not in metadata:
        raise ModelFormatError(f"{path} is a safetensors file, but not one of Thalweg's: it has no {_KEY!r} header")
    try:
        header = dict(json.loads(metadata[_KEY]))
    except ValueError as error:
        raise ModelFormatError(f"{path}: its {_KEY!r} header is not JSON ({error}): fit it again") from error
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ModelFormatError(
            f"{path} has format version {version}, and this Thalweg reads {FORMAT_VERSION}: upgrade Thalweg"
        )
    if version < FORMAT_VERSION:
        raise ModelFormatError(
            f"{path} has format version {version}, and this Thalweg reads {FORMAT_VERSION}: fit again"
        )
    absent = [key for key in _PARTS if key not in header]
    if absent:
        raise ModelFormatError(f"{path} does not hold a whole model: no {', '.join(absent)}. Fit it again")
    return header


def _why_unreadable(path: Path, error: SafetensorError) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if size >= 9 and start[8:9] == b"{" and length < 100_000_000:
        return f"{path} is truncated: it ends after {size:,} bytes ({error}). Copy it again, or fit it again"
    return f"{path} is not a Thalweg model ({error}). Make one with `thalweg fit`"
