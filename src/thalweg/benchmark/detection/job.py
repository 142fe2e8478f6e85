"""One job of the benchmark, in a process of its own: this module, with the job on standard input.

The process reads one line of JSON, writes its rows as a file, and ends. It also ends, without a row, if its standard
input is closed: then the parent is gone, and the next run repeats the job.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, final

from thalweg import __version__
from thalweg.benchmark.detection.measure import measure, tuned_row
from thalweg.benchmark.detection.methods import TEST_TUNED, make_models, settings_of
from thalweg.benchmark.detection.rows import row_file, write_rows
from thalweg.benchmark.detection.scenarios import FROM, SCENARIOS, Scenario
from thalweg.benchmark.detection.splits import TRAINING_SPAN, Split, read_flows, renumber, split
from thalweg.benchmark.machine import peak_memory_mb
from thalweg.ingest.streams import fingerprint

REVISION: Final = 3
"""Raise it if the rivals, the meaning of a figure or the splits change: all older rows are then stale."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one process does: fit a family of methods with one seed, and judge it on one file.

    dataset, path: the file to judge on. learned: the file to learn from, which is the same one except in the scenario
    `from`. digest: of everything that determines the result; see `digest_of`.
    """

    dataset: str
    path: str
    learned: str
    scenario: str
    family: str
    seed: int
    quick: bool
    effort: float
    digest: str = ""

    @property
    def conditions(self) -> Scenario:
        """The scenario of that name."""
        return SCENARIOS[self.scenario.partition(":")[0]]

    def file(self, folder: Path) -> Path:
        """Return where the rows are kept."""
        return row_file(folder, self.dataset, self.scenario, self.family, self.seed, self.quick)

    def as_row(self) -> dict[str, Any]:
        """Return the columns that name the job."""
        names = ("dataset", "scenario", "family", "seed", "quick", "effort", "digest")
        return {"version": __version__, **{name: getattr(self, name) for name in names}}


def digest_of(job: Job, digests: Mapping[str, str]) -> str:
    """Return a digest of the job's files and settings, and of the package's version.

    digests: of the files' content, by path. Rows with another digest were made from something else.
    """
    settings = settings_of(job.family, quick=job.quick, effort=job.effort, hidden=job.conditions.hidden)
    parts = (
        __version__,
        REVISION,
        digests[job.path],
        digests[job.learned],
        repr(job.conditions),
        TRAINING_SPAN,
        job.seed,
        settings,
    )
    return blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def file_digest(path: str) -> str:
    """Return a digest of a file's content."""
    return fingerprint(Path(path))


def parts_of(job: Job) -> Split:
    """Read the job's files and split them by its scenario."""
    conditions = job.conditions
    judged = split(
        read_flows(Path(job.path), keep_wrapped=conditions.keep_wrapped),
        job.seed,
        contamination=conditions.contamination,
    )
    train, test, note = judged.train, judged.test, judged.note
    if job.scenario.startswith(FROM):
        train = split(read_flows(Path(job.learned)), job.seed).train
    if conditions.renumbered:
        test = renumber(test, job.seed)
    return Split(train, test, judged.label, judged.attack, judged.start, judged.timed, note)


def run_job(job: Job) -> list[dict[str, Any]]:
    """Run a job and return a row for each method of the family.

    Raises whatever reading, fitting or scoring raises.
    """
    parts = parts_of(job)
    data_memory = peak_memory_mb()
    models = make_models(job.family, quick=job.quick, effort=job.effort, hidden=job.conditions.hidden)
    measured = {}
    for name, model in models:
        measured[name] = found = measure(model, parts, job.seed)
        found.row |= {
            **job.as_row(),
            "method": name,
            "data_memory_mb": data_memory,
            "peak_memory_mb": peak_memory_mb(),
        }
    rows = [found.row for found in measured.values()]
    if job.family in TEST_TUNED and parts.label.any() and not parts.label.all():
        rows.append(tuned_row(job.family, measured, parts.label))
    return rows


def to_line(job: Job, folder: Path) -> str:
    """Write a job as the line that its process reads; folder: where its rows go."""
    return json.dumps({"folder": str(folder), "job": asdict(job)}) + "\n"


def _exit_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Read a job, run it, and write its rows."""
    # Not through sys.stdin: the interpreter fails at exit if a thread is blocked inside it.
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or b"\n"
    given = json.loads(line)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    job = Job(**given["job"])
    write_rows(job.file(Path(given["folder"])), run_job(job))


if __name__ == "__main__":
    main()
