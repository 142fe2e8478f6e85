"""The state of a training on disk, so that a long one outlives its process."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from thalweg.errors import ConfigError, SinkError, SourceError
from thalweg.model.learning.mixing import TrainingData
from thalweg.runtime.whole_file import whole_file


def fingerprint(data: TrainingData, settings: Sequence[Any]) -> str:
    """Return a hash of a training: of its flows, its settings, and the versions of Thalweg and torch."""
    of = [version("thalweg"), torch.__version__, data.scaling.as_dict(), *settings]
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode())
    for array in (data.src, data.dst, data.edge_attr, data.held_out, data.octets.numpy(), data.kind.numpy()):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@final
class Checkpoint:
    """A file that holds the latest state of one training."""

    def __init__(self, path: Path, training: str) -> None:
        self.path, self._training = path, training
        self._saved = False

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the stored state.

        Raises SinkError if the first state cannot be written; a later failure is only a warning, so that the training
        goes on.
        """
        # Through memory: torch's own writer does not report a full disk as an OSError.
        whole = io.BytesIO()
        torch.save({"training": self._training, **state}, whole)
        try:
            with whole_file(self.path) as partial:
                partial.write_bytes(whole.getbuffer())
        except OSError as error:
            words = f"cannot write the checkpoint {self.path}: {error.strerror or error}"
            if not self._saved:
                raise SinkError(words) from error
            warnings.warn(f"{words}; the training goes on, and the state kept last stays", RuntimeWarning, stacklevel=2)
        self._saved = True

    def load(self) -> dict[str, Any] | None:
        """Return the state, on the CPU; None if there is none yet.

        Raises SourceError if the file is no checkpoint; ConfigError if it is of another training.
        """
        if not self.path.exists():
            return None
        try:
            # Tensors and plain values only: a foreign file must not be able to run anything.
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds of error for a foreign file
            raise SourceError(f"{self.path} is not a checkpoint that can be read ({error}): remove it") from error
        if not isinstance(state, dict) or state.pop("training", None) != self._training:
            raise ConfigError(
                f"the checkpoint {self.path} is of another training (other flows, settings or version): remove it, "
                f"or name another file"
            )
        return state
