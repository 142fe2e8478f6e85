"""The detection benchmark: the list of its jobs, and the loop that runs those that are not done yet."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final, final

import polars as pl

from thalweg.benchmark.detection import job as job_process
from thalweg.benchmark.detection.datasets import Found
from thalweg.benchmark.detection.job import Job, digest_of, file_digest, to_line
from thalweg.benchmark.detection.methods import THALWEG, ablated, is_known, is_thalweg
from thalweg.benchmark.detection.rows import join_rows, read_rows, write_rows
from thalweg.benchmark.detection.scenarios import CLEAN, SCENARIOS, scenarios_of
from thalweg.errors import ConfigError, SinkError

_POLL_S: Final = 0.05
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionPlan:
    """What to run.

    families: of methods. scenarios: None for the clean case, and all others for Thalweg unless it is quick.
    ablations: also Thalweg without each of its parts, in the clean case.
    seeds: how many, from 0. effort: factor on the number of flows that Thalweg trains on. workers: jobs at a time.

    Raises ConfigError if a value is out of range.
    """

    families: tuple[str, ...]
    scenarios: tuple[str, ...] | None = None
    ablations: bool = False
    seeds: int = 5
    quick: bool = False
    effort: float = 1.0
    workers: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.seeds < 1 or self.workers < 1:
            raise ConfigError("--seeds and --workers are at least 1")
        if not 0 < self.effort <= 100:
            raise ConfigError(f"--effort is a factor above 0 and at most 100, not {self.effort}")


def plan_jobs(plan: DetectionPlan, chosen: Sequence[Found], found: Sequence[Found]) -> tuple[Job, ...]:
    """List every job: all sets, methods and scenarios with the first seed, then with the next.

    chosen: the files to judge on; found: all files in --data, to learn from in the scenario `from`.

    Raises ConfigError if a scenario names a set that is not in --data.
    """
    wanted = []
    for family in plan.families:
        scenarios = plan.scenarios
        if scenarios is None:
            scenarios = tuple(SCENARIOS) if family == THALWEG and not plan.quick else (CLEAN,)
        # Rivals have no addresses to hide.
        wanted += [
            (family, name) for name in scenarios if is_thalweg(family) or not SCENARIOS[name.partition(":")[0]].hidden
        ]
    if plan.ablations:
        wanted = list(dict.fromkeys([*wanted, *((family, CLEAN) for family in ablated())]))
    digests = {str(one.path): file_digest(str(one.path)) for one in found}
    jobs = []
    for seed in range(plan.seeds):
        for judged in chosen:
            for family, scenario in wanted:
                for name, learned in scenarios_of(scenario, judged, found):
                    job = Job(
                        dataset=judged.name,
                        path=str(judged.path),
                        learned=str(learned.path),
                        scenario=name,
                        family=family,
                        seed=seed,
                        quick=plan.quick,
                        effort=plan.effort,
                    )
                    jobs.append(replace(job, digest=digest_of(job, digests)))
    return tuple(jobs)


def is_done(job: Job, folder: Path) -> bool:
    """Return whether a job has rows from the same files and settings, without an error."""
    rows = read_rows(job.file(folder))
    return (
        rows is not None and rows.height > 0 and (rows["digest"] == job.digest).all() and rows["error"].is_null().all()
    )


def collect(folder: Path, jobs: Sequence[Job]) -> pl.DataFrame:
    """Return the rows of these jobs that exist and are not stale, in the order of the jobs."""
    frames = [
        rows.filter(pl.col("digest") == job.digest) for job in jobs if (rows := read_rows(job.file(folder))) is not None
    ]
    return join_rows(frames)


def jobs_in(folder: Path, plan: DetectionPlan, found: Sequence[Found]) -> tuple[Job, ...]:
    """Return the jobs of earlier runs that have rows, as they would be planned today with the budgets of `plan`.

    So a run of some methods does not drop the others from the report. Jobs of sets or methods that are no longer known
    are left out; `collect` drops stale rows.
    """
    sets = {one.name: one for one in found}
    digests = {str(one.path): file_digest(str(one.path)) for one in found}
    jobs = []
    for path in sorted(folder.glob("*.parquet")):
        rows = read_rows(path)
        if rows is None or not rows.height:
            continue
        row = rows.row(0, named=True)
        other = row["scenario"].partition(":")[2] or row["dataset"]
        if row["dataset"] not in sets or other not in sets or not is_known(row["family"]):
            continue
        job = Job(
            dataset=row["dataset"],
            path=str(sets[row["dataset"]].path),
            learned=str(sets[other].path),
            scenario=row["scenario"],
            family=row["family"],
            seed=row["seed"],
            quick=plan.quick,
            effort=plan.effort,
        )
        jobs.append(replace(job, digest=digest_of(job, digests)))
    return tuple(sorted(jobs, key=lambda job: (job.seed, job.scenario != CLEAN)))


@final
@dataclass(slots=True)
class DetectionProgress:
    """Progress of a run. done: jobs that have rows; now: running jobs, with their seconds so far."""

    total: int
    done: int
    reused: int
    failed: int = 0
    now: tuple[tuple[Job, float], ...] = ()
    ended: Job | None = None
    error: str | None = None
    seconds_left: float | None = None
    spent: dict[str, list[float]] = field(default_factory=dict)
    """seconds of each job of this run, by family"""


@final
@dataclass(slots=True)
class _Child:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    begun: float


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    *,
    workers: int,
    fresh: bool = False,
    each: Callable[[DetectionProgress], None] = lambda _: None,
) -> DetectionProgress:
    """Run the jobs that are not done yet, each in its own process, which writes its rows into `out`/rows.

    A job that fails leaves a row with `error`, and is tried again in the next run. fresh: delete all rows
    first. each: called with the progress many times a second, and with `ended` set when a job ends.

    Raises SinkError if `out` cannot be written or another run writes there; KeyboardInterrupt on Ctrl-C, after all
    processes were ended.
    """
    folder = out / "rows"
    with _locked(out), _deferred_ctrl_c() as stop:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"cannot write into {folder}: {error.strerror}. Choose another --out") from error
        for left in folder.glob(".*"):
            left.unlink(missing_ok=True)
        waiting = [job for job in jobs if not is_done(job, folder)]
        progress = DetectionProgress(total=len(jobs), done=len(jobs) - len(waiting), reused=len(jobs) - len(waiting))
        running: list[_Child] = []
        try:
            while waiting or running:
                stop()
                while waiting and len(running) < workers:
                    running.append(_start(waiting.pop(0), folder, one_thread=workers > 1))
                for child in [one for one in running if one.process.poll() is not None]:
                    running.remove(child)
                    _end(child, folder, progress)
                    _report(progress, running, waiting, workers, each)
                    progress.ended = progress.error = None
                _report(progress, running, waiting, workers, each)
                if running:
                    time.sleep(_POLL_S)
        finally:
            for child in running:
                child.process.kill()
                child.process.wait()
                child.log.unlink(missing_ok=True)
    return progress


@contextmanager
def _deferred_ctrl_c() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C until the yielded function is called: during the start of a process it would lose that process.

    Outside the main thread there is no Ctrl-C to defer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked = threading.Event()

    def stop() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock `out` for this run; the system releases the lock when the process ends, however it ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise SinkError(f"cannot write into {out}: {error.strerror}. Choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SinkError(f"another run writes into {out}: wait for its end, or choose another --out") from error
        yield


def _start(job: Job, folder: Path, *, one_thread: bool) -> _Child:
    environment: Mapping[str, str] = {**os.environ, **(dict.fromkeys(_ONE_THREAD, "1") if one_thread else {})}
    log = folder / f".{job.file(folder).name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", job_process.__name__],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env=environment,
            # Ctrl-C would make a training stop early and keep its state, which gives an unfair row.
            start_new_session=True,
        )
    pipe = _stdin(process)
    try:
        pipe.write(to_line(job, folder).encode())
        pipe.flush()
    except BrokenPipeError:
        pass  # it has ended already; its log has the reason
    return _Child(job, process, log, time.monotonic())


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None, "it was asked for"
    return process.stdin


def _end(child: _Child, folder: Path, progress: DetectionProgress) -> None:
    """Record how a job ended; if it wrote no rows, write one with the error."""
    _stdin(child.process).close()
    seconds = time.monotonic() - child.begun
    progress.spent.setdefault(child.job.family, []).append(seconds)
    progress.ended, progress.done = child.job, progress.done + 1
    if child.process.returncode or not is_done(child.job, folder):
        progress.error = _why(child)
        progress.failed += 1
        row = {**child.job.as_row(), "method": child.job.family, "error": progress.error}
        write_rows(child.job.file(folder), [row])
    child.log.unlink(missing_ok=True)


def _why(child: _Child) -> str:
    code = child.process.returncode
    if code < 0:
        likely = ": the machine was probably out of memory" if code == -signal.SIGKILL else ""
        return f"killed by signal {-code}{likely}"
    lines = child.log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else f"ended with code {code} and without rows"


def _report(
    progress: DetectionProgress,
    running: Sequence[_Child],
    waiting: Sequence[Job],
    workers: int,
    each: Callable[[DetectionProgress], None],
) -> None:
    now = time.monotonic()
    progress.now = tuple((child.job, now - child.begun) for child in running)
    progress.seconds_left = _seconds_left(progress, waiting, workers)
    each(progress)


def _seconds_left(progress: DetectionProgress, waiting: Sequence[Job], workers: int) -> float | None:
    """Estimate from the mean seconds of a family's jobs, or of all jobs if the family has not run yet."""
    every = [seconds for spent in progress.spent.values() for seconds in spent]
    if not every:
        return None
    usual = sum(every) / len(every)
    means = {family: sum(spent) / len(spent) for family, spent in progress.spent.items()}
    left = sum(means.get(job.family, usual) for job in waiting)
    left += sum(max(means.get(job.family, usual) - seconds, 0.0) for job, seconds in progress.now)
    return left / max(min(workers, len(waiting) + len(progress.now)), 1)
