"""Measures how fast files are read into flows, beside Polars alone on the same file.

The files are made from simulated flows: each dialect as CSV, one dialect compressed, and each other format.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
import polars as pl
import zstandard

from thalweg.benchmark.machine import describe_machine
from thalweg.benchmark.speed.progress import Report, StepProgress
from thalweg.errors import ConfigError
from thalweg.ingest import FileSource
from thalweg.runtime.memory import keep_blocks
from thalweg.synthetic import SimulationConfig, as_dialect, simulate
from thalweg.synthetic.dialects import Dialect

Reader: TypeAlias = Callable[[Path], pl.DataFrame]


@final
@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of file: whose columns, how it is written, and how Polars alone reads it whole."""

    dialect: Dialect
    suffix: str
    write: Callable[[pl.DataFrame, Path], None]
    read: Reader


def _write_csv(frame: pl.DataFrame, path: Path) -> None:
    frame.write_csv(path)


def _write_gzip(frame: pl.DataFrame, path: Path) -> None:
    with _plain_beside(frame, path) as plain, gzip.open(path, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed)


def _write_zstd(frame: pl.DataFrame, path: Path) -> None:
    with _plain_beside(frame, path) as plain, path.open("wb") as packed:
        zstandard.ZstdCompressor().copy_stream(plain, packed)


def _plain_beside(frame: pl.DataFrame, path: Path) -> Any:
    plain = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  # closed by the caller
    frame.write_csv(plain)
    plain.seek(0)
    return plain


def _write_zeek(frame: pl.DataFrame, path: Path) -> None:
    """Write Zeek's own format: tab-separated, its header in lines that begin with #."""
    with path.open("wb") as log:
        log.write(b"#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n")
        log.write(("#fields\t" + "\t".join(frame.columns) + "\n").encode())
        frame.write_csv(log, include_header=False, separator="\t", null_value="-")


def _read_zeek(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, separator="\t", has_header=False, comment_prefix="#", null_values="-", quote_char=None)


KINDS: Final[Mapping[str, FileKind]] = {
    "csv": FileKind("thalweg", ".csv", _write_csv, pl.read_csv),
    "csv, nf-v1": FileKind("nf-v1", ".csv", _write_csv, pl.read_csv),
    "csv, nf-v2": FileKind("nf-v2", ".csv", _write_csv, pl.read_csv),
    "csv, nf-v3": FileKind("nf-v3", ".csv", _write_csv, pl.read_csv),
    # In this dialect, the port can be text in any row if the protocol has no ports.
    "csv, binetflow": FileKind(
        "binetflow",
        ".binetflow",
        _write_csv,
        lambda path: pl.read_csv(path, schema_overrides={"Sport": pl.String, "Dport": pl.String}),
    ),
    "csv.gz": FileKind("thalweg", ".csv.gz", _write_gzip, pl.read_csv),
    "csv.zst": FileKind("thalweg", ".csv.zst", _write_zstd, pl.read_csv),
    "zeek log": FileKind("zeek", ".log", _write_zeek, _read_zeek),
    "json lines": FileKind("thalweg", ".jsonl", lambda frame, path: frame.write_ndjson(path), pl.read_ndjson),
    "json lines, zeek": FileKind("zeek", ".json", lambda frame, path: frame.write_ndjson(path), pl.read_ndjson),
    "parquet": FileKind(
        "thalweg", ".parquet", lambda frame, path: frame.write_parquet(path), lambda path: pl.read_parquet(path)
    ),
    "arrow": FileKind(
        "thalweg",
        ".arrow",
        lambda frame, path: frame.write_ipc(path),
        # Mapped into memory, nothing would be read.
        lambda path: pl.read_ipc(path.read_bytes()),
    ),
}
"""Every kind of file that is measured, by its name in the table."""


def choose_kinds(names: tuple[str, ...] | None) -> dict[str, FileKind]:
    """Return the kinds whose name begins with one of these; all if None.

    Raises ConfigError if no name begins with one of them.
    """
    for name in names or ():
        if not any(kind.startswith(name) for kind in KINDS):
            raise ConfigError(
                f"--formats {name}: no such format; choose from {'; '.join(KINDS)}, or the beginning of a name"
            )
    return {kind: of for kind, of in KINDS.items() if names is None or kind.startswith(names)}


def run_ingest(
    kinds: Mapping[str, FileKind],
    num_rows: int,
    rounds: int,
    seed: int,
    folder: Path,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Make a file of each kind and read it into flows, in turn with Polars alone.

    folder: where the files are made, one at a time; each is removed after it was read. The first reading of each
    side, which loads the file from disk and compiles, is not counted.

    Returns: JSON values: `machine`, `num_rows`, `rounds`, and `files`, a row for each kind; rates in rows/s and MB/s
    (10^6 bytes of the file on disk), medians; `ratio`, seconds of Polars over ours, the median of each round's. Raises
    ConfigError if a value is out of range.
    """
    if num_rows < 1_000 or rounds < 1:
        raise ConfigError("--rows is at least 1,000, and --rounds at least 1")
    keep_blocks()  # the same for both sides
    machine = describe_machine()
    flows = simulate(SimulationConfig(site="campus", flows=num_rows, seed=seed))
    files: list[dict[str, Any]] = []
    begun = time.perf_counter()
    for done, (name, kind) in enumerate(kinds.items()):
        left = (time.perf_counter() - begun) / done * (len(kinds) - done) if done else None
        report(StepProgress(done, len(kinds), name, left))
        path = folder / f"flows{kind.suffix}"
        try:
            kind.write(as_dialect(flows, kind.dialect), path)
            files.append({"kind": name, "dialect": kind.dialect, **_measure(kind, path, num_rows, rounds)})
        finally:
            path.unlink(missing_ok=True)
    return {"machine": machine, "num_rows": num_rows, "rounds": rounds, "files": files}


def _measure(kind: FileKind, path: Path, num_rows: int, rounds: int) -> dict[str, Any]:
    sides: dict[str, Callable[[], int]] = {"thalweg": lambda: _flows_in(path), "polars": lambda: kind.read(path).height}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            begun = time.perf_counter()
            found = side()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
            assert found == num_rows, f"{name} read {found} rows of {num_rows} from {path}"
    size = path.stat().st_size
    ratios = [theirs / ours for theirs, ours in zip(seconds["polars"], seconds["thalweg"], strict=True)]
    return {
        "file_mb": size / 1e6,
        **{name: _rates(float(np.median(of)), num_rows, size) for name, of in seconds.items()},
        "ratio": float(np.median(ratios)),
    }


def _flows_in(path: Path) -> int:
    """Count the flows of a file, read as `thalweg score` does."""
    return sum(len(flows) for flows in FileSource(path))


def _rates(seconds: float, num_rows: int, size: int) -> dict[str, float]:
    return {"seconds": seconds, "rows_per_s": num_rows / seconds, "mb_per_s": size / 1e6 / seconds}
