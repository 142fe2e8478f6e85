"""Thalweg learns how the flows of a network normally run, and tells which flow left that line.

import thalweg as tw

flows = tw.read("june.parquet")
detector = tw.Detector(seed=7).fit(flows)
scores = detector.score(tw.read("july.parquet"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thalweg.detect import Budget, Detector, Threshold
    from thalweg.errors import (
        ConfigError,
        ModelError,
        ModelFormatError,
        NotFittedError,
        SchemaError,
        SinkError,
        SourceError,
        ThalwegError,
    )
    from thalweg.graph import FlowGraph, build_graph
    from thalweg.ingest import FileSource, ReadOptions, read
    from thalweg.synthetic import SimulationConfig, simulate
    from thalweg.tables import Flows, Scores, conform
    from thalweg.windows import Window, by_count, by_time

# Where each public name lives. They are imported when first asked for: `import thalweg` does not wait for torch.
_HOMES = {
    "Budget": "detect",
    "ConfigError": "errors",
    "Detector": "detect",
    "FileSource": "ingest",
    "FlowGraph": "graph",
    "Flows": "tables",
    "ModelError": "errors",
    "ModelFormatError": "errors",
    "NotFittedError": "errors",
    "ReadOptions": "ingest",
    "SchemaError": "errors",
    "Scores": "tables",
    "SimulationConfig": "synthetic",
    "SinkError": "errors",
    "SourceError": "errors",
    "ThalwegError": "errors",
    "Threshold": "detect",
    "Window": "windows",
    "build_graph": "graph",
    "by_count": "windows",
    "by_time": "windows",
    "conform": "tables",
    "read": "ingest",
    "simulate": "synthetic",
}

__all__ = [
    "Budget",
    "ConfigError",
    "Detector",
    "FileSource",
    "FlowGraph",
    "Flows",
    "ModelError",
    "ModelFormatError",
    "NotFittedError",
    "ReadOptions",
    "SchemaError",
    "Scores",
    "SimulationConfig",
    "SinkError",
    "SourceError",
    "ThalwegError",
    "Threshold",
    "Window",
    "__version__",
    "build_graph",
    "by_count",
    "by_time",
    "conform",
    "read",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")
    return getattr(import_module(f"thalweg.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
