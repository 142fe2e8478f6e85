"""The state of a training on disk, so that a long one outlives its process."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch

from thalweg.errors import ConfigError, SinkError, SourceError
from thalweg.model.mixing import TrainingData
from thalweg.wholefile import whole_file

_VERSION: Final = 1


def fingerprint(data: TrainingData, settings: Sequence[Any]) -> str:
    """Tell one training from another: by its flows, and by all that was set for it."""
    digest = hashlib.sha256(json.dumps([_VERSION, *settings], sort_keys=True).encode())
    for array in (data.src, data.dst, data.edge_attr, data.held_out, data.octets.numpy()):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@final
class Checkpoint:
    """One file that holds the latest state of one training."""

    def __init__(self, path: Path, training: str) -> None:
        self.path, self._training = path, training

    def save(self, state: Mapping[str, Any]) -> None:
        """Put a state in the place of the last one. Raises: SinkError, where it cannot be written."""
        try:
            with whole_file(self.path) as partial:
                torch.save({"training": self._training, **state}, partial)
        except OSError as error:
            raise SinkError(f"cannot write the checkpoint {self.path}: {error.strerror}") from error

    def load(self) -> dict[str, Any] | None:
        """Return the state, on the CPU; None where there is none yet.

        Raises: SourceError, where the file is no checkpoint; ConfigError, where it is of another training.
        """
        if not self.path.exists():
            return None
        try:
            # Tensors and plain values only: a foreign file must not be able to run anything.
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise SourceError(f"{self.path} is not a checkpoint that can be read ({error}): remove it") from error
        if not isinstance(state, dict) or state.pop("training", None) != self._training:
            raise ConfigError(
                f"the checkpoint {self.path} is of another training (other flows, settings or version): remove it, "
                f"or name another file"
            )
        return state
