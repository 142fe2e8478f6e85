"""`thalweg info`."""

# Packages are imported inside the command: `thalweg --help` should not wait for torch.
from __future__ import annotations

import json

from thalweg.cli.options import Json, Model
from thalweg.cli.show.terminal import OUT, print_json


def info(model: Model, *, as_json: Json = False) -> None:
    """Print what a model file holds: what it learned from, its threshold and its settings."""
    from thalweg.cli.show.words import threshold_in_words
    from thalweg.detect.model_file import part_of, read_header
    from thalweg.detect.threshold import Threshold

    header = read_header(model)
    if as_json:
        print_json(header)
        return
    with part_of(model, "threshold"):
        threshold = Threshold.from_dict(header["threshold"])
    with part_of(model, "summary or settings"):
        found = {**header["summary"], **header["settings"]}
    OUT.print(
        f"{model}: {header['kind']}, format version {header['format_version']}, seed {header['seed']}\n"
        f"{threshold_in_words(threshold)}",
        soft_wrap=True,
    )
    for name, value in found.items():
        OUT.print(f"  {name}: {json.dumps(value)}", soft_wrap=True)
