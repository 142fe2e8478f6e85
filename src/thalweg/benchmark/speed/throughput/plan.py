"""The throughput benchmark: its plan, its processes, and the figures from their results."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np

from thalweg.benchmark.machine import OUT_OF_MEMORY, describe_machine, free_memory
from thalweg.benchmark.speed.cases import CASES, Case
from thalweg.benchmark.speed.dwell import SCORERS, compare_dwell, streams
from thalweg.benchmark.speed.progress import PUBLISHED, REFERENCE, SIDE_WORDS, THALWEG, Report, StepProgress
from thalweg.benchmark.speed.throughput import child
from thalweg.benchmark.speed.throughput.steps import DWELL, EXACT, PEAK, PROFILE, ROUNDS, Part, pace_in_words
from thalweg.errors import ConfigError, ModelError
from thalweg.windows import DEFAULT_SIZE

SWEEP_SIZES: Final = (10_000, 50_000, 200_000, 1_000_000, 2_500_000)
SCALE_SIZES: Final = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_500_000)

_SHARE_OF_FREE: Final = 0.75
_LEAST_FREE: Final = 700_000_000
"""bytes of memory that must stay free: below that, the system may kill any process"""
_POLL_S: Final = 0.1


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ThroughputPlan:
    """What to measure.

    num_flows: in each window. rounds: how often every side rates a window, in turn. sides: out of `SIDE_WORDS`.
    pace: flows/s of the paced stream. dwell_windows: windows of each stream. exact_flows: the
    most flows of a window that errors are measured on, as float64 takes twice the time and memory. sweep, scale:
    whether to measure these too; sweep_case: the traffic of the sweep. memory: bytes that a process may take beyond its
    models; None for three quarters of the free memory.

    Raises ConfigError if a value is out of range.
    """

    cases: tuple[Case, ...] = tuple(CASES.values())
    num_flows: int = DEFAULT_SIZE
    rounds: int = 5
    sides: tuple[str, ...] = tuple(SIDE_WORDS)
    pace: float = 100_000.0
    dwell_windows: int = 32
    exact_flows: int = DEFAULT_SIZE
    sweep: bool = False
    scale: bool = False
    sweep_case: Case = CASES["d200"]
    sweep_sizes: tuple[int, ...] = SWEEP_SIZES
    sweep_windows: int = 32
    scale_sizes: tuple[int, ...] = SCALE_SIZES
    seed: int = 0
    memory: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.rounds, self.dwell_windows, self.sweep_windows) < 1:
            raise ConfigError("rounds and windows are at least 1")
        if self.num_flows < 200:
            raise ConfigError(f"--flows {self.num_flows}: a window to measure has at least 200 flows")
        if self.pace <= 0:
            raise ConfigError(f"--rate {self.pace:g}: flows arrive at more than 0 a second")
        if self.memory is not None and self.memory <= 0:
            raise ConfigError("--memory: must be above 0")

    def quick(self) -> ThroughputPlan:
        """Return a shorter plan that still covers everything."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return ThroughputPlan(
            **fields
            | {
                "rounds": min(self.rounds, 2),
                "dwell_windows": min(self.dwell_windows, 4),
                "exact_flows": min(self.exact_flows, 50_000),
                "sweep_windows": min(self.sweep_windows, 3),
                "sweep_sizes": tuple(size for size in self.sweep_sizes if size <= 1_000_000),
                "scale_sizes": tuple(size for size in self.scale_sizes if size <= 300_000),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        fields = asdict(self)
        return {**fields, "cases": [case.name for case in self.cases], "sweep_case": self.sweep_case.name}


def parts_of(plan: ThroughputPlan) -> list[tuple[Part, list[str]]]:
    """Return what each process measures, and the names of its steps."""
    parts: list[tuple[Part, list[str]]] = []
    common = {"seed": plan.seed}
    for case in plan.cases:
        part = {
            "kind": "case",
            "case": case.name,
            "num_flows": plan.num_flows,
            "rounds": plan.rounds,
            "sides": list(plan.sides),
            "pace": plan.pace,
            "dwell_windows": plan.dwell_windows,
            "exact_flows": plan.exact_flows,
        }
        names = [PEAK + side for side in plan.sides] + [ROUNDS] + [PROFILE] * (THALWEG in plan.sides)
        names += [
            f"{DWELL}{way}, {pace_in_words(pace)}"
            for way in SCORERS
            for pace, _ in streams(way, plan.pace, plan.dwell_windows)
        ]
        names += [EXACT + side for side in plan.sides if side != REFERENCE]
        parts.append((part | common, names))
    if plan.sweep:
        sweep = {"kind": "sweep", "case": plan.sweep_case.name, "sizes": list(plan.sweep_sizes)}
        names = [f"{size:,} flows, {way}" for size in plan.sweep_sizes for way in SCORERS]
        parts.append((sweep | {"windows": plan.sweep_windows} | common, names))
    if plan.scale:
        scale = {"kind": "scale", "case": "growing", "sizes": list(plan.scale_sizes)}
        parts.append((scale | common, [f"{size:,} flows" for size in plan.scale_sizes]))
    return parts


def run_throughput(plan: ThroughputPlan, report: Report = lambda _: None) -> dict[str, Any]:
    """Measure everything in the plan, each part in its own process, one after the other.

    Returns: JSON values: `machine`, `plan`, `cases`, `sweep`, `scale`; see docs/performance.md.
    Raises ModelError if a process ends for another reason than memory.
    """
    parts = parts_of(plan)
    total, done, begun = sum(len(names) for _, names in parts), 0, time.perf_counter()
    found: dict[str, Any] = {"machine": describe_machine(), "plan": plan.as_dict()}
    found |= {"cases": [], "sweep": [], "scale": None}
    for part, names in parts:

        def say(name: str, ended: int, part: Part = part, before: int = done) -> None:
            at = before + ended
            left = (time.perf_counter() - begun) / at * (total - at) if at else None
            report(StepProgress(at, total, f"{part['case' if part['kind'] == 'case' else 'kind']}: {name}", left))

        rows = _measure_part(part, plan.memory, say)
        done += len(names)
        if part["kind"] == "case":
            found["cases"].append(_case_figures(part, rows))
        elif part["kind"] == "sweep":
            found["sweep"] = [{"step": name, **row} for name, row in rows.items()]
        else:
            found["scale"] = scale_figures([{"step": name, **row} for name, row in rows.items()])
    return found


def _measure_part(part: Part, memory: int | None, say: Callable[[str, int], None]) -> dict[str, dict[str, Any]]:
    """Run the process of a part; if it runs out of memory, record the step as failed and restart without it."""
    rows: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    while True:
        step = _run_process(part, memory, rows, failed, say)
        if step is None:
            return rows
        rows[step] = {"failed": OUT_OF_MEMORY, "why": "the process was killed"}
        if step.startswith(PEAK):
            failed.append(step.removeprefix(PEAK))


def _run_process(
    part: Part,
    memory: int | None,
    rows: dict[str, dict[str, Any]],
    failed: list[str],
    say: Callable[[str, int], None],
) -> str | None:
    """Measure in one process what is not in `rows` yet. Returns: the step in which it died; None if it succeeded."""
    most = int(_SHARE_OF_FREE * free_memory()) or 1 << 62
    given = {"part": part, "failed": failed, "done": list(rows), "memory": memory or most}
    command = [sys.executable, "-m", child.__name__]
    now = "start"
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        assert process.stdout is not None
        starved = threading.Event()
        threading.Thread(target=_watch, args=(process, starved), daemon=True).start()
        try:
            process.stdin.write(json.dumps(given).encode() + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                message = json.loads(line)
                if "begin" in message:
                    now = message["begin"]
                    say(now, len(rows))
                elif "end" in message:
                    rows[message["end"]] = message["row"]
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(OSError):
                process.stdin.close()
        if code == 0:
            return None
        # A negative code is a signal: from `_watch`, the kernel, or a library that aborts if memory is exhausted.
        if (starved.is_set() or code < 0) and now not in ("start", "models"):
            return now
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {code}"]
    if starved.is_set():
        raise ModelError(
            f"{part['case']}: this machine has too little free memory: close other programs, or choose --cases d50"
        )
    raise ModelError(f"{part['case']}, {now}: the measuring process ended: {last[0]}")


def _watch(process: subprocess.Popen[bytes], starved: threading.Event) -> None:
    """Kill the process before the machine runs out of memory. Its own limit can be too high if other processes grow."""
    while process.poll() is None:
        free = free_memory()
        if 0 < free < _LEAST_FREE:
            starved.set()
            process.kill()
        time.sleep(_POLL_S)


def _case_figures(part: Part, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Gather the rows of a case by side."""
    case = CASES[part["case"]]
    shown = case if part["num_flows"] == case.num_flows else case.resized(part["num_flows"])
    rounds = rows.get(ROUNDS, {})
    sides = {}
    for name in (side for side in SIDE_WORDS if side in part["sides"]):
        peak = rows.get(PEAK + name, {})
        exact = rows.get(EXACT + (THALWEG if name == THALWEG else PUBLISHED), {})
        sides[name] = {
            **{key: rounds.get(name, {}).get(key) for key in ("seconds", "cpu_seconds", "flows_per_s", "ratio")},
            "seconds_by_round": rounds.get(name, {}).get("seconds_by_round", []),
            "peak_memory_mb": peak.get("peak_memory_mb"),
            "largest_error": exact.get(name),
            "no_error_because": exact.get("why") if name not in exact else None,
            "failed": peak.get("failed") or rounds.get("failed"),
            "memory_limit_mb": peak.get("memory_limit_mb"),
        }
    dwell = [{"step": name.removeprefix(DWELL), **row} for name, row in rows.items() if name.startswith(DWELL)]
    return {
        "case": case.name,
        "hosts": shown.num_hosts,
        "channels": shown.num_channels,
        "flows": shown.num_flows,
        "sides": sides,
        "dwell": dwell,
        "pipelined_against": compare_dwell(dwell),
        "profile": {name: seconds for name, seconds in rows.get(PROFILE, {}).items() if isinstance(seconds, float)},
    }


def scale_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit a power law, seconds = c (flows + channels)^slope. rows: `flows`, `channels`, `seconds`, or `failed`.

    Returns: `rows`; `slope` and `seconds_per_million`, of flows + channels, None with fewer than two sizes.
    """
    good = [row for row in rows if "seconds" in row]
    if len({row["flows"] for row in good}) < 2:
        return {"rows": rows, "slope": None, "seconds_per_million": None}
    work = np.array([row["flows"] + row["channels"] for row in good], float)
    slope, intercept = np.polyfit(np.log(work), np.log([row["seconds"] for row in good]), 1)
    return {
        "rows": rows,
        "slope": float(slope),
        "seconds_per_million": float(np.exp(intercept + slope * np.log(1e6))),
    }
