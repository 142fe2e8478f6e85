"""Reference logits of a window: the same weights in 64-bit arithmetic.

Independent of how a model scores: the networks are rebuilt from the contents of a model file, and run layer by layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from thalweg.graph import AttributeScaling, Familiarity, PrefixVocabulary, build_graph, flow_keys, host_keys
from thalweg.graph.hosts import NUM_LEVELS
from thalweg.model.autoencoder import Autoencoder, ModelConfig
from thalweg.model.interface import FlowModel
from thalweg.published.graph import Preparation
from thalweg.published.model import PublishedGAE
from thalweg.published.network import PublishedNetwork
from thalweg.tables import Flows

Logits = npt.NDArray[np.float64]


class Reference:
    """The published network as released, on PyTorch Geometric, with the weights of a `PublishedGAE`."""

    def __init__(self, model: PublishedGAE, dtype: torch.dtype = torch.float32) -> None:
        held = model.tensors()
        weights = {name.removeprefix("network."): w for name, w in held.items() if name.startswith("network.")}
        self.network = PublishedNetwork()
        self.network.load_state_dict(weights)
        self.network.to(dtype).eval()
        self.preparation = Preparation(**{name: held[name] for name in ("projection", "mean", "std")})
        self.dtype = dtype

    def logits(self, flows: Flows) -> npt.NDArray[np.floating]:
        """Build the graph of one window and rate its flows. Returns: (E,) in the network's own precision."""
        graph = self.preparation.graph(flows)
        x, edge_attr = graph.x.to(self.dtype), graph.edge_attr.to(self.dtype)
        with torch.no_grad():
            z = self.network.encode(x, graph.edge_index, edge_attr)
            logit = self.network.decode(z, graph.edge_index, edge_attr, graph.host_window, 1)
        rated: npt.NDArray[np.floating] = logit.numpy()
        return rated


def exact_published(model: PublishedGAE, flows: Flows) -> Logits:
    """Rate one window by the published network in float64, from the same float32 graph. Returns: (E,)."""
    return Reference(model, torch.float64).logits(flows).astype(np.float64)


def exact_thalweg(model: FlowModel, flows: Flows) -> Logits:
    """Rate one window by Thalweg's network in float64, from the same float32 graph. Returns: (E,).

    model: a fitted `ThalwegModel`.
    """
    held, settings = model.tensors(), model.settings()
    shape = ModelConfig(**settings["shape"])
    scaling = AttributeScaling.from_dict(settings["scaling"])
    vocabulary = PrefixVocabulary([held[f"vocabulary.{level}"].numpy() for level in range(NUM_LEVELS)])
    network = Autoencoder(shape, len(scaling.names), vocabulary.sizes)
    network.load_state_dict({k.removeprefix("network."): v for k, v in held.items() if k.startswith("network.")})
    network.double().eval()
    graph, _ = build_graph(flows, scaling)
    attr = graph.edge_attr.numpy()
    if shape.use_familiarity:
        own = {k.removeprefix("familiarity."): v for k, v in held.items() if k.startswith("familiarity.")}
        familiarity = Familiarity.restore(own, int(settings["num_counted"]), use_addresses=shape.use_addresses)
        keys = host_keys(graph.octets.numpy(), graph.kind.numpy())
        by = flow_keys(keys[graph.src.numpy()], keys[graph.dst.numpy()], scaling.amounts(attr))
        attr = familiarity.append_features(attr, familiarity.lookup(by), by)
    graph = replace(graph, edge_attr=torch.from_numpy(attr).double())
    prefix_ids = vocabulary.lookup(graph.octets, graph.kind)
    with torch.inference_mode():
        rated: Logits = network(graph, prefix_ids).numpy()
    return rated


def largest_error(logit: npt.NDArray[np.floating], exact: Logits) -> dict[str, float]:
    """Return the largest errors of logits and of scores, 1 - sigmoid(logit), and the spread of the exact logits."""
    given = logit.astype(np.float64)
    score, true = np.exp(-np.logaddexp(0, given)), np.exp(-np.logaddexp(0, exact))
    return {
        "logit": float(np.abs(given - exact).max(initial=0.0)),
        "score": float(np.abs(score - true).max(initial=0.0)),
        "spread": float(exact.std()) if len(exact) else 0.0,
    }
