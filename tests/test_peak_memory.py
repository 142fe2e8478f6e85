"""Bounds on the peak memory of a graph and of inference, as the kernel records it while large windows are scored."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from thalweg.benchmark.machine import reset_peak

_MEASURE = """
import json
from thalweg.benchmark.speed.cases import CASES, Traffic, growing
from thalweg.benchmark.machine import reset_peak, peak_memory_mb
from thalweg.benchmark.speed.sides import fit_briefly

few = CASES["d200"].resized(400_000)
many = growing(200_000)
models = fit_briefly(Traffic(CASES["d200"].resized(20_000), 0), 0)
own, published = models.detector.model, models.published
small = Traffic(CASES["d200"].resized(20_000), 0).window(1)
own.logits(small)
published.logits(small)

def peak(work):
    reset_peak()
    before = peak_memory_mb()
    return work(), (peak_memory_mb() - before) * 1e6

found = {}
for name, case in (("few", few), ("many", many)):
    flows = Traffic(case, 0).window(0)
    own.window_size = published.window_size = case.num_flows
    graph, of_graph = peak(lambda: own.prepare(flows))
    _, of_inference = peak(lambda: own.infer(graph))
    found[name] = {
        "flows": case.num_flows, "hosts": graph.value[0].num_hosts, "channels": graph.value[0].num_channels,
        "graph": of_graph, "inference": of_inference,
    }
    del graph
    found[name]["published"] = peak(lambda: published.logits(flows))[1]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    if not reset_peak():
        pytest.skip("this system cannot reset the record of a process's peak memory")
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    measured: dict[str, dict[str, float]] = json.loads(done.stdout)
    return measured


def test_a_graph_takes_a_few_hundred_bytes_a_flow(found: dict[str, dict[str, float]]) -> None:
    # Texts and numbers of both hosts, ten keys and counts, the attributes: see `ThalwegModel.prepare`.
    for one in found.values():
        assert one["graph"] < 700 * one["flows"], one


def test_inference_holds_nothing_as_large_as_flows_times_width(found: dict[str, dict[str, float]]) -> None:
    few = found["few"]
    width = 64 * 4
    assert few["inference"] < width / 2 * few["flows"], few
    many = found["many"]
    # A dozen such arrays of hosts; sums and features of channels: see `Autoencoder`.
    bound = 16 * width * many["hosts"] + 2 * width * many["channels"] + width / 2 * many["flows"]
    assert many["inference"] < bound, many


def test_the_published_network_holds_nothing_as_large_as_flows_times_width_either(
    found: dict[str, dict[str, float]],
) -> None:
    few = found["few"]
    width = 768 * 4  # of its decoder
    assert few["published"] < width / 2 * few["flows"], few
