"""Options that the speed benchmarks share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="The folder for results, charts and report; made if it does not exist.")]
Seed = Annotated[int, typer.Option(min=0, help="The seed of all traffic and weights.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer rounds and windows: a first look, in minutes.")]
