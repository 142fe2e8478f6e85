"""Measures the GPU rows of docs/performance.md: cases, streams and window sizes, checked against the CPU's scores.

    python studies/gpu.py [--quick] [--json FILE]

Without a CUDA device it says so and exits with 0. Times run from columns in host memory to scores in host memory. The
first window, which compiles the kernels, is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from thalweg.benchmark.machine import OUT_OF_MEMORY, describe_machine, machine_in_words, memory_errors
from thalweg.benchmark.speed.cases import CASES, Case, Traffic
from thalweg.benchmark.speed.dwell import SCORERS, measure_dwell
from thalweg.benchmark.speed.progress import PUBLISHED, SIDE_WORDS, THALWEG
from thalweg.benchmark.speed.sides import Models, fit_briefly, make_sides, time_in_turn
from thalweg.benchmark.speed.throughput.plan import SWEEP_SIZES
from thalweg.benchmark.speed.throughput.steps import models_on
from thalweg.runtime.memory import keep_blocks
from thalweg.tables import Flows

_CLOSE: Final = 1e-3
"""Largest difference allowed between a score on the GPU and on the CPU: sums have another order, TF32 is off."""
_WINDOWS: Final = 3


def main(words: list[str]) -> int:
    """Measure, print, and return the exit code: 1 if a score on the GPU differs from the CPU's."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="fewer rounds and windows")
    options.add_argument("--json", type=Path, help="also write all rows into this file")
    given = options.parse_args(words)
    if not torch.cuda.is_available():
        print("no GPU here: torch finds no CUDA device, so there is nothing to measure. thalweg benchmark throughput")
        print("prints the CPU's rows; with a GPU, install a CUDA build of torch (see pytorch.org) and run this again.")
        return 0
    keep_blocks()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    machine = describe_machine()
    print(machine_in_words(machine))
    rounds, num_windows = (2, 4) if given.quick else (5, 32)
    rows: list[dict[str, Any]] = []
    for case in CASES.values():
        rows += _case(case, rounds, num_windows)
    rows += _sweep(CASES["d200"], num_windows, SWEEP_SIZES[:4] if given.quick else SWEEP_SIZES)
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    wrong = [row for row in rows if row.get("close") is False]
    for row in wrong:
        print(f"DIFFERS FROM THE CPU: {row['case']} {row['what']}, off by {row['largest_difference']:.1e}")
    return 1 if wrong else 0


def _case(case: Case, rounds: int, num_windows: int) -> list[dict[str, Any]]:
    traffic = Traffic(case)
    on_cpu = fit_briefly(traffic, 0)
    on_gpu = models_on(on_cpu, "cuda")
    windows = traffic.windows(_WINDOWS, first=1)
    own, other = make_sides(on_gpu), make_sides(on_cpu)
    rows: list[dict[str, Any]] = []
    # The reference side computes on the CPU only; the published network's row on CUDA is the preset's.
    for name in (THALWEG, PUBLISHED):
        row: dict[str, Any] = {"case": case.name, "what": SIDE_WORDS[name]}
        try:
            with memory_errors():
                torch.cuda.reset_peak_memory_stats()
                rated = own[name](windows[0])
                own[name](windows[1])
                timing = time_in_turn({name: own[name]}, windows, rounds)[name]
                row |= {
                    **timing.as_dict(case.num_flows, None),
                    "gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6,
                }
        except MemoryError:
            row["failed"] = OUT_OF_MEMORY
            torch.cuda.empty_cache()
        else:
            row |= _check(rated, lambda name=name: other[name](windows[0]))
        rows.append(_printed(row))
    rows += [_printed(_stream(case.name, scorer, on_gpu, on_cpu, windows, num_windows)) for scorer in SCORERS]
    return rows


def _check(rated: Any, exact: Any) -> dict[str, Any]:
    """Compare scores with the CPU's, if the CPU has enough memory to compute them."""
    try:
        with memory_errors():
            expected = exact()
    except MemoryError:
        return {"largest_difference": None, "close": None}
    score, true = (np.exp(-np.logaddexp(0, np.asarray(logit, np.float64))) for logit in (rated, expected))
    difference = float(np.abs(score - true).max())
    return {"largest_difference": difference, "close": difference <= _CLOSE}


def _stream(
    case: str, name: str, on_gpu: Models, on_cpu: Models, windows: list[Flows], num_windows: int
) -> dict[str, Any]:
    scorer = SCORERS[name](on_gpu.detector)
    row: dict[str, Any] = {"case": case, "what": f"stream, {name}"}
    try:
        with memory_errors():
            measure_dwell(scorer, windows, 1, None)
            row |= measure_dwell(scorer, windows, num_windows, None).as_dict()
            given = dict(scorer(iter(windows)))
    except MemoryError:
        torch.cuda.empty_cache()
        return {**row, "failed": OUT_OF_MEMORY}
    differences = [
        float(np.abs(given[i] - on_cpu.detector.score(flows).score).max()) for i, flows in enumerate(windows[:1])
    ]
    return {**row, "largest_difference": max(differences), "close": max(differences) <= _CLOSE}


def _sweep(case: Case, num_windows: int, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    on_cpu = fit_briefly(Traffic(case), 0)
    on_gpu = models_on(on_cpu, "cuda")
    rows: list[dict[str, Any]] = []
    for size in sizes:
        on_gpu.detector.model.window_size = on_cpu.detector.model.window_size = size
        windows = Traffic(case.resized(size)).windows(2)
        name = f"{case.name} in windows of {size:,}"
        rows += [_printed(_stream(name, scorer, on_gpu, on_cpu, windows, num_windows)) for scorer in SCORERS]
    return rows


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row, and return it."""
    speed = row.get("failed") or f"{row['flows_per_s']:,.0f} flows/s"
    wait = f", dwell p50 {row['p50_s']:.4f} s, p99 {row['p99_s']:.4f} s" if "p50_s" in row else ""
    off = row.get("largest_difference")
    check = "" if off is None else f", scores within {off:.1e} of the CPU's"
    print(f"{row['case']} | {row['what']} | {speed}{wait}{check}", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
