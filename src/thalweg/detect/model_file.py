"""A model as one file: safetensors for the numbers, JSON in its header for the rest. Nothing in it can run.

A file may come from anyone, so everything it states is checked before anything of that size is allocated. Its tensors
are read, not mapped: the file may change while they are in use.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from thalweg.errors import ModelFormatError, SinkError, SourceError
from thalweg.runtime.settings import value_of
from thalweg.runtime.whole_file import whole_file

FORMAT_VERSION: Final = 4
"""The version of the file format; a file of another version is refused."""
_KEY: Final = "thalweg"
_PARTS: Final = ("kind", "settings", "threshold", "calibration", "profile", "seed", "span_s", "summary")

_MOST_HEADER: Final = 32 << 20
"""Bytes; a model that was fitted on 100,000 files has half as many."""
_MOST_VALUES: Final = 1_000_000
"""Values in the JSON, each of which takes some 200 bytes of memory."""
_MOST_DATA: Final = 256 << 20
"""Bytes of all tensors; without the training flows' hosts, which take 4 bytes each, a model has 60 MB at most."""
_MOST_TENSORS, _MOST_DIMENSIONS = 1_000, 4
_CHECKED: Final = 1 << 20
_DTYPES: Final[Mapping[str, npt.DTypeLike]] = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


@final
@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor in the file: its type, its shape, and its bytes behind the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


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
    version, or if a tensor is impossible or holds what is no number, saying which.
    """
    with _opened(path) as file:
        header, stored = _read_start(path, file)
        begin = file.tell()
        return header, {name: _read_tensor(path, file, begin, name, one) for name, one in stored.items()}


def read_header(path: Path) -> dict[str, Any]:
    """Read a model file's header alone; raises as `read_model` does."""
    with _opened(path) as file:
        return _read_start(path, file)[0]


@contextmanager
def part_of(path: Path, part: str) -> Iterator[None]:
    """Read a part of a model in the block; what fails there becomes a ModelFormatError that names file and part."""
    try:
        yield
    except Exception as error:  # a part can be wrong in any way, and anyone may have written it
        words = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ModelFormatError(f"{path} does not hold a whole model ({part}: {words}): fit it again") from error


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        if not path.is_file():
            raise SourceError(f"no model file {path}: make one with `thalweg fit FLOWS -o {path}`")
        with path.open("rb") as file:
            yield file
    except PermissionError as error:
        raise SourceError(f"the model file {path} cannot be read: let its owner give this user the right to") from error
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"the model file {path} cannot be read: {error.strerror or error}") from error


def _read_start(path: Path, file: io.BufferedReader) -> tuple[dict[str, Any], dict[str, _Stored]]:
    """Read all but the tensors, and leave the file where they begin. Returns: the header; where each tensor lies."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{" or length > max(size, _MOST_HEADER):
        raise ModelFormatError(f"{path} is not a Thalweg model. Make one with `thalweg fit`")
    if length > _MOST_HEADER:
        raise ModelFormatError(f"{path}: its header has {length:,} bytes; {_MOST_HEADER:,} are allowed. Fit it again")
    text = start[8:] + file.read(length - 1)
    if len(text) < length:
        raise _truncated(path, size)
    outer = _parsed(path, text, "file header")
    metadata = outer.pop("__metadata__", {})
    if not isinstance(metadata, dict) or _KEY not in metadata:
        raise ModelFormatError(f"{path} is a safetensors file, but not one of Thalweg's: it has no {_KEY!r} header")
    header = _parsed(path, metadata[_KEY], f"{_KEY!r} header")
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
    return header, _layout(path, outer, size - 8 - length, size)


def _parsed(path: Path, text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object whose size is bounded."""
    try:
        if not isinstance(text, str | bytes):
            raise ValueError("it is not text")
        text = text if isinstance(text, str) else text.decode()
        if sum(map(text.count, ",[{")) > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        found = json.loads(text, object_pairs_hook=_named_once)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except RecursionError as error:
        raise ModelFormatError(f"{path}: its {what} is nested too deeply: fit it again") from error
    except ValueError as error:
        raise ModelFormatError(f"{path}: its {what} is not JSON that a model has ({error}): fit it again") from error
    return found


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # add returns None
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def _layout(path: Path, given: Mapping[str, Any], num_bytes: int, size: int) -> dict[str, _Stored]:
    """Check where tensors lie: one after the other, from the first byte behind the header to the last."""
    if len(given) > _MOST_TENSORS:
        raise ModelFormatError(f"{path} has {len(given):,} tensors; {_MOST_TENSORS:,} are allowed. Fit it again")
    stored = {}
    for name, fields in given.items():
        with part_of(path, f"tensor {name[:100]!r}"):
            stored[name] = _stored(fields)
    at = 0
    for name, one in sorted(stored.items(), key=lambda item: (item[1].begin, item[1].end)):
        if one.begin != at:
            raise ModelFormatError(
                f"{path} does not hold a whole model (tensor {name[:100]!r} begins at byte {one.begin:,}, and the one "
                f"before it ends at {at:,}): fit it again"
            )
        at = one.end
    if at > _MOST_DATA:
        raise ModelFormatError(f"{path}: its tensors have {at:,} bytes; {_MOST_DATA:,} are allowed. Fit it again")
    if at > num_bytes:
        raise _truncated(path, size)
    if at < num_bytes:
        raise ModelFormatError(
            f"{path}: {num_bytes - at:,} bytes follow its last tensor. Copy it again, or fit it again"
        )
    return stored


def _stored(fields: Mapping[str, Any]) -> _Stored:
    """Read where one tensor lies. Raises ValueError if that contradicts itself."""
    shape = value_of(tuple[int, ...], fields["shape"], "shape")
    begin, end = value_of(tuple[int, ...], fields["data_offsets"], "data_offsets")
    if fields["dtype"] not in _DTYPES:
        raise ValueError(f"its type is none of {', '.join(_DTYPES)}")
    dtype = np.dtype(_DTYPES[fields["dtype"]])
    if len(shape) > _MOST_DIMENSIONS or not all(0 <= num <= _MOST_DATA for num in (*shape, begin, end)):
        raise ValueError(f"its shape is impossible: {shape[:_MOST_DIMENSIONS]}, in bytes {begin} to {end}")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its shape {shape} does not fit the bytes {begin} to {end}")
    return _Stored(dtype, shape, begin, end)


def _read_tensor(path: Path, file: io.BufferedReader, begin: int, name: str, stored: _Stored) -> torch.Tensor:
    file.seek(begin + stored.begin)
    values = np.fromfile(file, stored.dtype, math.prod(stored.shape))
    if values.nbytes < stored.end - stored.begin:
        raise _truncated(path, os.fstat(file.fileno()).st_size)
    if stored.dtype.kind == "f":
        for at in range(0, len(values), _CHECKED):
            if not np.isfinite(values[at : at + _CHECKED]).all():
                raise ModelFormatError(f"{path}: tensor {name[:100]!r} holds NaN or infinity. Fit it again")
    return torch.from_numpy(values.reshape(stored.shape))


def _truncated(path: Path, size: int) -> ModelFormatError:
    return ModelFormatError(f"{path} is truncated: it ends after {size:,} bytes. Copy it again, or fit it again")
