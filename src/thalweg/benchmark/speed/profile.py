"""Profiles the parts of scoring a window, on one thread, by Python's own profiler.

On one thread, since parts that use several would otherwise be charged for waiting.
"""

from __future__ import annotations

import cProfile
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any, Final

import torch

from thalweg.graph import (
    AttributeScaling,
    Familiarity,
    FlowGraph,
    PrefixVocabulary,
    activity,
    channel_features,
    channel_sums,
    collapse,
    converge,
    flow_keys,
    index_hosts,
    neighbours,
)
from thalweg.model.kernels import cpu
from thalweg.tables import Flows

PARTS: Final[Mapping[str, Sequence[Callable[..., Any]]]] = {
    "addresses, channels": (index_hosts, collapse, FlowGraph.merged),
    "attributes, counts": (
        AttributeScaling.transform,
        AttributeScaling.amounts,
        flow_keys,
        Familiarity.lookup,
        Familiarity.append_features,
        PrefixVocabulary.lookup,
    ),
    "sums, neighbourhoods": (channel_sums, channel_features, activity, converge, neighbours),
    "attention": (cpu.attend,),
    "decoder": (cpu.decode_edges,),
}
"""The parts, by the functions that do them; none of these calls another."""
REST: Final = "layers over hosts, rest"


def profile_parts(score: Callable[[Flows], Any], windows: Sequence[Flows]) -> dict[str, float]:
    """Return seconds for a window by part, means over `windows`; everything else is REST."""
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
    spent: dict[CodeType | str, float] = {}
    total = 0.0
    for entry in profile.getstats():
        spent[entry.code] = spent.get(entry.code, 0.0) + entry.totaltime
        total += entry.inlinetime
    found = {part: sum(spent.get(one.__code__, 0.0) for one in functions) for part, functions in PARTS.items()}
    return {part: seconds / len(windows) for part, seconds in (found | {REST: total - sum(found.values())}).items()}
