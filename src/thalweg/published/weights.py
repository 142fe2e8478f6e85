"""Weights of the published graph autoencoder, read from a file that torch saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import ModelFormatError, SourceError


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a `state_dict` and check it against another of the same architecture.

    Nothing in the file is run: torch unpickles tensors and containers only.

    Raises SourceError if there is no such file; ModelFormatError if it holds no state_dict or one of
    another network, with the first name that does not fit.
    """
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SourceError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except Exception as error:
        # Bytes that are no pickle make torch's reader stumble in any way, IndexError included. Its message is not
        # passed on: it advises to load without weights_only, which would run what the file says.
        raise ModelFormatError(
            f"{path} is not a file of weights alone: save it with torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in found.items()
    ):
        raise ModelFormatError(
            f"{path} holds no state_dict, names with a tensor each: save it with torch.save(model.state_dict(), path)"
        )
    for name, weight in expected.items():
        if name not in found:
            raise ModelFormatError(f"{path}: no weights {name}: they are of another network")
        if found[name].shape != weight.shape:
            raise ModelFormatError(
                f"{path}: {name} has shape {tuple(found[name].shape)}, not {tuple(weight.shape)}: "
                f"the weights are of another network"
            )
    if unexpected := [name for name in found if name not in expected]:
        raise ModelFormatError(f"{path}: {unexpected[0]} is unknown here: the weights are of another network")
    return {name: found[name].to(weight.dtype) for name, weight in expected.items()}
