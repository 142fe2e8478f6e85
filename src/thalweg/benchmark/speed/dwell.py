"""Measures how long flows wait for their scores, in a stream of windows that is paced or flat out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt

from thalweg.detect import Detector
from thalweg.errors import ModelError
from thalweg.runtime.stages import Stage, run_stages
from thalweg.tables import Flows

Scorer: TypeAlias = Callable[[Iterator[Flows]], Iterator[tuple[int, npt.NDArray[np.float32]]]]
"""A way of scoring a stream: reads windows as they arrive, yields (number of the window, its (E,) scores), in order."""

ONE_STAGE: Final = "one stage at a time"
ONE_WINDOW: Final = "one window at a time"
PIPELINED: Final = "pipelined"

_LEAST_FLAT_OUT: Final = 8
"""The fewest windows of a stream that is not paced: all stages are busy only after the first few."""


def streams(way: str, pace: float, num_windows: int) -> Sequence[tuple[float | None, int]]:
    """Return the paces at which a way of scoring is measured, each with its number of windows.

    One stage at a time has no pace: its second stage starts when the stream has ended.
    """
    flat_out = (None, max(num_windows, _LEAST_FLAT_OUT))
    return (flat_out,) if way == ONE_STAGE else ((pace, num_windows), flat_out)


def one_stage_at_a_time(detector: Detector) -> Scorer:
    """Return a batch scorer: it reads all windows, builds all graphs, then rates all. Holds every window's graph."""

    def scorer(windows: Iterator[Flows]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        *before, last = detector.stages()
        items: list[Any] = list(windows)
        for stage in before:
            items = list(stage.work(iter(items)))
        for index, scores in enumerate(last.work(iter(items))):
            yield index, scores.score

    return scorer


def one_window_at_a_time(detector: Detector) -> Scorer:
    """Return a scorer that scores each window through every stage before it reads the next window."""

    def scorer(windows: Iterator[Flows]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        for index, flows in enumerate(windows):
            yield index, detector.score(flows).score

    return scorer


def pipelined(detector: Detector) -> Scorer:
    """Return a scorer that builds the graph of one window while another is rated; a thread waits for new windows."""

    def scorer(windows: Iterator[Flows]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        # The first stage runs in this thread, so an empty one keeps it from waiting for windows.
        begin, arrive = Stage("begin", lambda _: [()]), Stage("source", lambda _: windows)
        stages = (begin, arrive, *detector.stages())
        with closing(run_stages(stages, bound=1)) as scored:
            for index, scores in enumerate(scored):
                yield index, scores.score

    return scorer


SCORERS: Final[Mapping[str, Callable[[Detector], Scorer]]] = {
    ONE_STAGE: one_stage_at_a_time,
    ONE_WINDOW: one_window_at_a_time,
    PIPELINED: pipelined,
}
"""Ways of scoring a stream by name: functions from a fitted detector to a scorer."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Dwell:
    """Speed and dwell time of a stream of windows.

    pace: flows/s offered, None if flat out. flows_per_s: flows scored, from the arrival of the first window to the
    scores of the last, so that it is a little above the pace if the scorer keeps up. p50_s, p99_s,
    longest_s: seconds from the arrival of a window's last flow to its scores, over the windows.
    """

    pace: float | None
    num_windows: int
    num_flows: int
    seconds: float
    flows_per_s: float
    p50_s: float
    p99_s: float
    longest_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def measure_dwell(
    scorer: Scorer,
    windows: Sequence[Flows],
    num_windows: int,
    pace: float | None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Dwell:
    """Send a stream of windows through a scorer and time each window.

    windows: sent in turn, over and over, `num_windows` in all. pace: the flows arrive at so many a second, whether
    or not the scorer keeps up, so the waiting of a window counts. None: flat out, a window arrives when the scorer
    reads it.

    Raises ModelError if the scores are not one array for each window, in order, with a score for each flow.
    """
    if not windows or num_windows < 1:
        raise ValueError("a stream has at least one window")
    arrived: list[float] = []
    begun = clock()

    def stream() -> Iterator[Flows]:
        due = begun
        for i in range(num_windows):
            flows = windows[i % len(windows)]
            if pace is not None:
                due += len(flows) / pace
                wait = due - clock()
                if wait > 0:
                    sleep(wait)
            arrived.append(clock() if pace is None else due)
            yield flows

    waited: list[float] = []
    num_flows, ended = 0, begun
    for index, score in scorer(stream()):
        ended = clock()
        if index != len(waited) or len(score) != len(windows[index % len(windows)]):
            raise ModelError(f"the scorer gave window {index} instead of window {len(waited)}, or not all its scores")
        waited.append(ended - arrived[index])
        num_flows += len(score)
    if len(waited) != num_windows:
        raise ModelError(f"the scorer gave {len(waited)} windows of {num_windows}")
    seconds = max(ended - arrived[0], 1e-9)
    return Dwell(
        pace=pace,
        num_windows=num_windows,
        num_flows=num_flows,
        seconds=seconds,
        flows_per_s=num_flows / seconds,
        p50_s=float(np.quantile(waited, 0.5)),
        p99_s=float(np.quantile(waited, 0.99)),
        longest_s=max(waited),
    )


def compare_dwell(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the pipelined stream with the others of the same case and pace. rows: from `measure_dwell`, with `way`.

    Returns: `way`, `pace`; `speed_ratio`, pipelined flows/s over theirs; `dwell_cut`, the share of their median dwell
    time that pipelining saves, negative if it costs.
    """
    done = [row for row in rows if "p50_s" in row]
    pipelined_at = {row["pace"]: row for row in done if row["way"] == PIPELINED}
    return [
        {
            "way": row["way"],
            "pace": row["pace"],
            "speed_ratio": pipelined_at[row["pace"]]["flows_per_s"] / row["flows_per_s"],
            "dwell_cut": 1 - pipelined_at[row["pace"]]["p50_s"] / row["p50_s"],
        }
        for row in done
        if row["way"] != PIPELINED and row["pace"] in pipelined_at
    ]
