"""Where a window's time goes: what each part of scoring takes, on one thread, by Python's own profiler.

On one thread, as parts that share out their work would else be charged for waiting.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from thalweg.tables import Flows

PARTS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "addresses, channels": (("flowgraph", "index_hosts"), ("flowgraph", "collapse"), ("flowgraph", "merged")),
    "attributes, counts": (
        ("attributes", "transform"),
        ("attributes", "amounts"),
        ("familiarity", "flow_keys"),
        ("familiarity", "lookup"),
        ("familiarity", "beside"),
        ("hosts", "lookup"),
    ),
    "sums, neighbourhoods": (
        ("hosts", "channel_sums"),
        ("hosts", "channel_features"),
        ("hosts", "activity"),
        ("hosts", "converge"),
        ("adjacency", "neighbours"),
    ),
    "attention": (("attention", "hear"),),
    "decoder": (("edges", "tail"),),
}
"""The parts, by the modules and names of the functions that do them; none of these calls another."""
REST: Final = "layers over hosts, rest"


def profile_parts(score: Callable[[Flows], Any], windows: Sequence[Flows]) -> dict[str, float]:
    """Return the seconds of a window by part, means over `windows`, and of all that is left as REST."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    profile = cProfile.Profile()
    try:
        score(windows[0])
        profile.enable()
        for flows in windows:
            score(flows)
        profile.disable()
    finally:
        torch.set_num_threads(num_threads)
    spent: dict[tuple[str, str], float] = {}
    total = 0.0
    for (path, _, name), (_, _, own, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]  # untyped
        spent[Path(path).stem, name] = spent.get((Path(path).stem, name), 0.0) + cumulative
        total += own
    found = {part: sum(spent.get(one, 0.0) for one in functions) for part, functions in PARTS.items()}
    return {part: seconds / len(windows) for part, seconds in (found | {REST: total - sum(found.values())}).items()}
