"""The kernels for a GPU, held to plain torch in float64: on a GPU, or under Triton's interpreter without one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.kernels.checks import F, check_attention, check_decoder, graph_of, graphs, random_graph, repeated
from thalweg.graph import FlowGraph
from thalweg.model import kernels
from thalweg.model.kernels import Kernels, kernels_on, reference

pytest.importorskip("triton", reason="needs Triton: pip install triton")

from thalweg.model.kernels import gpu
from thalweg.model.kernels.gpu import edges

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
BODY: Kernels = gpu
GRAPHS = graphs(0, 1, 2, 300, 5_000) if ON_GPU else graphs(0, 1, 2, 300)
EXAMPLES = 60 if ON_GPU else 30  # the interpreter takes up to half a second for one
MANY = 200_000 if ON_GPU else 5_000


@given(GRAPHS, st.booleans(), st.sampled_from([0.1, 1.0]))
@settings(max_examples=EXAMPLES)
def test_attention_is_the_reference(of: tuple[int, int, int, int, float], incoming: bool, spread: float) -> None:
    check_attention(BODY, random_graph(*of), incoming, spread, device=DEVICE)


def test_attention_of_one_channel_with_many_flows() -> None:
    check_attention(BODY, random_graph(0, 2, 1, MANY), True, 0.5, device=DEVICE)


@pytest.mark.parametrize("incoming", [True, False])
def test_attention_of_edges_that_stand_for_several_flows(incoming: bool) -> None:
    check_attention(BODY, repeated(random_graph(1, 20, 40, 200)), incoming, 0.5, device=DEVICE)


@pytest.mark.parametrize("incoming", [True, False])
def test_attention_of_a_host_with_all_the_channels(incoming: bool) -> None:
    # Host 0 is in all of them, once with itself; host 100 in none.
    hub, all_hosts = np.zeros(100, np.int64), np.arange(100)
    attr = np.random.default_rng(0).normal(size=(200, F))
    graph = graph_of(np.concatenate([hub, all_hosts]), np.concatenate([all_hosts, hub]), attr, 101)
    check_attention(BODY, graph, incoming, 1.0, device=DEVICE)


@pytest.mark.parametrize(("width", "heads", "score_width"), [(10, 1, 3), (64, 2, 16), (96, 4, 20)])
def test_widths_of_any_kind(width: int, heads: int, score_width: int) -> None:
    graph = part_of_the_attributes(random_graph(0, 20, 40, 100))
    sizes = {"width": width, "heads": heads, "score_width": score_width}
    check_attention(BODY, graph, True, 0.3, **sizes, device=DEVICE)
    check_decoder(BODY, graph, width=width, device=DEVICE)


def part_of_the_attributes(graph: FlowGraph) -> FlowGraph:
    """Return a graph whose attributes are the first columns of a wider matrix, as those that hosts receive are."""
    wide = torch.cat([graph.edge_attr, torch.full_like(graph.edge_attr, torch.nan)], dim=1)
    return replace(graph, edge_attr=wide[:, :F])


@given(GRAPHS)
@settings(max_examples=EXAMPLES)
def test_the_decoder_is_the_reference(of: tuple[int, int, int, int, float]) -> None:
    graph = random_graph(*of)
    if graph.num_flows:  # the decoder answers an empty window itself
        check_decoder(BODY, graph, device=DEVICE)


def test_the_decoder_of_one_channel_with_many_flows() -> None:
    check_decoder(BODY, random_graph(0, 2, 1, MANY), device=DEVICE)


@pytest.mark.parametrize("num_waves", [0, 11])
def test_the_decoder_with_no_waves_and_many(num_waves: int) -> None:
    check_decoder(BODY, random_graph(0, 10, 20, 100), num_waves=num_waves, device=DEVICE)


def test_the_decoder_takes_channels_run_by_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "_CHANNELS", 7)
    check_decoder(BODY, random_graph(0, 10, 30, 200), device=DEVICE)


def test_kernels_compile_for_a_gpu_and_only_there_is_triton_imported(tmp_path: Path) -> None:
    # The interpreter takes much that the compiler does not.
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    words = [sys.executable, "-m", "tests.model.kernels.compile_for_gpu", "80"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["_add_up", "_rate", "_sum_attr", "_sum_value", "_weigh"], done.stderr


def test_where_triton_cannot_compile_or_is_not_there_plain_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no C compiler")

    chosen = kernels_on.__wrapped__
    assert chosen(DEVICE) is gpu
    with monkeypatch.context() as patched:
        patched.setattr(gpu, "add_up", fail)
        with pytest.warns(RuntimeWarning, match=r"plain torch computes there.*no C compiler"):
            assert chosen(DEVICE) is reference
    monkeypatch.delattr(kernels, "gpu")
    monkeypatch.setitem(sys.modules, "thalweg.model.kernels.gpu", None)
    assert chosen(DEVICE) is reference


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
def test_on_a_gpu_scoring_takes_these_kernels() -> None:
    there = torch.zeros(1, device=DEVICE)
    assert kernels.kernels_for(there) is reference
    with torch.no_grad():
        assert kernels.kernels_for(there) is gpu
        assert kernels.kernels_for(there.double()) is reference
