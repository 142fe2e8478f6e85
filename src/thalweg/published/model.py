"""The published graph autoencoder as it was released, with its faults: the reference to measure against.

Kept on purpose: noise edges have zero attributes, so that the attributes alone identify them; the edge that
is rated passes messages about itself; attributes are standardised without a logarithm. Corrected, as they
concern the reference's pipeline and not its model: every flow keeps its own score, and batch norm is in
evaluation mode when scoring.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, final, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from thalweg.errors import ConfigError, ModelError, ModelFormatError, NotFittedError
from thalweg.model.interface import FitSummary, FlowModel, Progress, check_weights
from thalweg.published.graph import Preparation, PublishedGraph, join, uniform_negatives
from thalweg.published.network import PublishedNetwork
from thalweg.published.weights import read_weights
from thalweg.runtime.device import Sent, seeded, send
from thalweg.runtime.settings import make_settings
from thalweg.tables import Flows
from thalweg.windows import by_count, check_size

if TYPE_CHECKING:
    from thalweg.published.scoring import PublishedWindow

Keep = Literal["last", "best"]

_PROGRESS_S: Final = 0.25
_NETWORK: Final = "network."


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedConfig:
    """How the reference is trained; the defaults are the published ones.

    Raises ConfigError if a value is out of range.
    """

    window_size: int = 1000
    """Flows per window, in training and in scoring."""
    num_epochs: int = 9
    """How many times the training flows are seen."""
    learning_rate: float = 0.003
    """The learning rate of AdamW at the start."""
    cosine_epochs: int = 5
    """Epochs from the full learning rate down to zero; the released schedule rises again after them."""
    windows_per_step: int = 1
    """Windows joined for one step; the released notebook joins 256, and the U-Net pools them together."""
    keep: Keep = "last"
    """The state to keep: that of the last epoch, as the reference does, or that of the best held-out loss."""

    def __post_init__(self) -> None:
        for name in ("window_size", "num_epochs", "learning_rate", "cosine_epochs", "windows_per_step"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        check_size(self.window_size)
        if self.keep not in get_args(Keep):
            raise ConfigError(f"keep must be one of {', '.join(get_args(Keep))}, not {self.keep!r}")


@final
class PublishedGAE(FlowModel):
    """The published graph autoencoder: GATv2, Graph U-Net, edge decoder; trained and scored in small windows.

    The same seed, flows, machine and number of threads give the same logits to the last bit on a CPU.

    Source: gnn-netflow-ad of NVIDIA morpheus-experimental; Kipf & Welling 2016, arXiv:1611.07308 (GAE).
    """

    kind: ClassVar[str] = "published"

    def __init__(self, config: PublishedConfig | None = None) -> None:
        self.config = config or PublishedConfig()
        self.window_size = self.config.window_size
        self._preparation: Preparation | None = None
        self._network: PublishedNetwork | None = None
        self._weights: dict[str, Tensor] | None = None
        self._device = torch.device("cpu")

    @classmethod
    def from_weights(cls, path: str | Path, config: PublishedConfig | None = None) -> Self:
        """Return a model whose network is trained already; its `fit` only measures the attributes.

        The projection of the octets is no part of the weights: `fit` draws it from its seed, so that the hosts
        look to the network as they would under another seed of its training.

        path: a `state_dict` of the reference's network, saved by torch.
        Raises SourceError if there is no such file; ModelFormatError if it holds something else.
        """
        model = cls(config)
        model._weights = read_weights(Path(path), _new_network(0).state_dict())
        return model

    def fit(
        self,
        flows: Flows,
        held_out: npt.NDArray[np.bool_],
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[Progress], None],
    ) -> FitSummary:
        """Learn to separate the flows that are not held out from uniform noise edges; see `FlowModel.fit`.

        A model made by `from_weights` does not learn: it measures the attributes of these flows, in 0 epochs.

        Windows that nothing can be learned from (one host, or no pair without a flow) are skipped. The
        summary's `best_epoch` and `held_out_loss` are those of the state that is kept; the loss is NaN if
        nothing is held out.

        Raises ModelError if no window is left to learn from.
        """
        config, began = self.config, time.perf_counter()
        train, judge = flows.filter(~held_out), flows.filter(held_out)
        if not len(train):
            raise ModelError("the published GAE has no flows to learn from: hold out fewer, or read more")
        generator = torch.Generator().manual_seed(seed)
        preparation = Preparation.fit(train, generator)
        network = _new_network(seed).to(device)
        if self._weights is not None:
            network.load_state_dict(self._weights)
            loss_now = _held_out_loss(network, _cut(judge, config.window_size), preparation, seed, device)
            self._preparation, self._network, self._device = preparation, network.eval(), device
            seconds = time.perf_counter() - began
            return FitSummary(
                num_flows=len(train),
                num_epochs=0,
                best_epoch=0,
                held_out_loss=loss_now,
                seconds=seconds,
                stopped="finished",
            )
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.cosine_epochs)
        report = _Report(progress, config.num_epochs, len(train), began)
        windows, judged = _cut(train, config.window_size), _cut(judge, config.window_size)
        best: _Epoch | None = None
        num_epochs, loss_now = 0, math.nan
        stopped: Literal["finished", "interrupted"] = "interrupted"
        try:
            for epoch in range(1, config.num_epochs + 1):
                network.train()
                for graph, negatives in _steps(windows, preparation, generator, config.windows_per_step):
                    optimizer.zero_grad()
                    loss = noise_loss(network, graph.to(device), negatives.to(device))
                    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
                    optimizer.step()
                    report.step(epoch, graph.edge_index.shape[1], loss.item())
                if not report.num_flows:
                    raise ModelError(
                        "the published GAE found no window to learn from: "
                        "each has one host, or a flow between every two"
                    )
                schedule.step()
                loss_now = _held_out_loss(network, judged, preparation, seed, device)
                report.held_out_loss = None if math.isnan(loss_now) else loss_now
                num_epochs = epoch
                # If nothing is held out the loss is NaN, no comparison holds, and the latest is the best.
                if best is None or not loss_now >= best.loss:
                    weights = {name: w.clone() for name, w in network.state_dict().items()}
                    best = _Epoch(epoch, loss_now, weights)
            report.finish()
            stopped = "finished"
        except KeyboardInterrupt:
            pass
        kept = _Epoch(num_epochs, loss_now, network.state_dict())
        if best is not None and (stopped == "interrupted" or config.keep == "best"):
            kept = best
            network.load_state_dict(kept.weights)
        self._preparation, self._network, self._device = preparation, network.eval(), device
        return FitSummary(
            num_flows=len(train),
            num_epochs=num_epochs,
            best_epoch=kept.epoch,
            held_out_loss=kept.loss,
            seconds=time.perf_counter() - began,
            stopped=stopped,
        )

    def logits(self, flows: Flows) -> npt.NDArray[np.float32]:
        """Rate the flows of one window of any size: log-odds that each edge exists; lower is stranger.

        The reference's probability is their sigmoid; the log-odds keep their order when it saturates.

        Returns: (E,) float32, row i for flow i.
        Raises NotFittedError before fit or restore.
        """
        return self.infer(self.prepare(flows))

    def prepare(self, flows: Flows) -> Sent[PublishedGraph] | PublishedWindow | None:
        """Build the graph; None if there are no flows. See `FlowModel.prepare`."""
        preparation, _ = self._fitted()
        if not len(flows):
            return None
        if self._device.type == "cpu":
            from thalweg.published import scoring  # compiles what training and a GPU do without

            return scoring.prepare(preparation, flows)
        graph = preparation.graph(flows)
        return send(lambda: graph.to(self._device), self._device)

    def infer(self, prepared: Sent[PublishedGraph] | PublishedWindow | None) -> npt.NDArray[np.float32]:
        """Encode and decode; see `FlowModel.infer`."""
        _, network = self._fitted()
        if prepared is None:
            return np.empty(0, np.float32)
        if not isinstance(prepared, Sent):
            from thalweg.published import scoring

            rated: npt.NDArray[np.float32] = scoring.rate(network, *prepared).numpy()
            return rated
        graph = prepared.arrived()
        with torch.no_grad():
            z = network.encode(graph.x, graph.edge_index, graph.edge_attr)
            logit = network.decode(z, graph.edge_index, graph.edge_attr, graph.host_window, 1)
        found: npt.NDArray[np.float32] = logit.cpu().numpy()
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights under `network.`, and the projection and scaling, on the CPU.

        Raises NotFittedError before fit or restore.
        """
        preparation, network = self._fitted()
        # Copies, so that what is saved does not change with a later fit.
        weights = {f"{_NETWORK}{name}": w.detach().cpu().clone() for name, w in network.state_dict().items()}
        prepared = {f.name: getattr(preparation, f.name).clone() for f in fields(Preparation)}
        return weights | prepared

    def settings(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return asdict(self.config)

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], device: torch.device) -> Self:
        """Return the fitted model.

        Raises ModelFormatError if a tensor or setting is missing, unknown or of another shape.
        """
        try:
            model = cls(make_settings(PublishedConfig, settings, "settings:"))
        except ConfigError as error:
            raise ModelFormatError(f"published GAE: {error}") from error
        network = _new_network(0)
        weights = {n.removeprefix(_NETWORK): t for n, t in tensors.items() if n.startswith(_NETWORK)}
        check_weights(network, weights)
        network.load_state_dict(weights)
        preparation = Preparation.restore(tensors)
        model._preparation, model._network, model._device = preparation, network.to(device).eval(), device
        return model

    def _fitted(self) -> tuple[Preparation, PublishedNetwork]:
        if self._preparation is None or self._network is None:
            raise NotFittedError("the published GAE is not fitted: call fit, or load a model file")
        return self._preparation, self._network


def noise_loss(network: PublishedNetwork, graph: PublishedGraph, negatives: Tensor) -> Tensor:
    """Return the binary cross-entropy of real edges against noise edges whose attributes are all zero.

    negatives: (2, K) int64. Returns: () float32.
    """
    z = network.encode(graph.x, graph.edge_index, graph.edge_attr)
    zeros = graph.edge_attr.new_zeros(negatives.shape[1], graph.edge_attr.shape[1])
    real = network.decode(z, graph.edge_index, graph.edge_attr, graph.host_window, graph.num_windows)
    noise = network.decode(z, negatives, zeros, graph.host_window, graph.num_windows)
    target = torch.cat([torch.ones_like(real), torch.zeros_like(noise)])
    return functional.binary_cross_entropy_with_logits(torch.cat([real, noise]), target)


def _new_network(seed: int) -> PublishedNetwork:
    with seeded(seed):
        return PublishedNetwork()


def _cut(flows: Flows, size: int) -> list[Flows]:
    return [window.flows for window in by_count([flows], size)]


def _steps(
    windows: list[Flows], preparation: Preparation, generator: torch.Generator, windows_per_step: int
) -> Iterator[tuple[PublishedGraph, Tensor]]:
    """Yield an epoch's steps, windows in random order: a graph and as many noise edges, (2, E)."""
    order = torch.randperm(len(windows), generator=generator).tolist()
    for at in range(0, len(order), windows_per_step):
        graph = join([preparation.graph(windows[i]) for i in order[at : at + windows_per_step]])
        if graph.num_hosts < 2:
            continue
        num_flows = graph.edge_index.shape[1]
        negatives = uniform_negatives(graph.edge_index, graph.num_hosts, num_flows, generator)
        if negatives.shape[1]:
            yield graph, negatives


def _held_out_loss(
    network: PublishedNetwork,
    windows: list[Flows],
    preparation: Preparation,
    seed: int,
    device: torch.device,
) -> float:
    """Return the mean loss per held-out flow in evaluation mode; NaN if no window can be judged."""
    network.eval()
    # The same noise edges after every epoch, so that its losses can be compared.
    generator = torch.Generator().manual_seed(seed + 1)
    total, num_flows = 0.0, 0
    with torch.no_grad():
        for graph, negatives in _steps(windows, preparation, generator, 1):
            num = graph.edge_index.shape[1]
            total += noise_loss(network, graph.to(device), negatives.to(device)).item() * num
            num_flows += num
    return total / num_flows if num_flows else math.nan


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Epoch:
    epoch: int
    loss: float
    weights: dict[str, Tensor]


@final
class _Report:
    """Reports to the progress callback a few times a second."""

    def __init__(self, progress: Callable[[Progress], None], num_epochs: int, num_flows: int, began: float) -> None:
        self.held_out_loss: float | None = None
        self.num_flows = 0
        self._progress, self._num_epochs, self._num_planned = progress, num_epochs, num_flows * num_epochs
        self._began, self._reported = began, -math.inf
        self._epoch, self._loss = 0, math.nan

    def step(self, epoch: int, num_flows: int, loss: float) -> None:
        """Count one step; report it if the last report is long enough ago."""
        self.num_flows += num_flows
        self._loss, self._epoch = loss, epoch
        if time.perf_counter() - self._reported >= _PROGRESS_S:
            # Windows that are skipped leave the share a little short; never at 0, as a step was made.
            self._send(share=min(self.num_flows / self._num_planned, 1.0))

    def finish(self) -> None:
        """Report the end, so that a progress line does not stop short of it."""
        self._send(share=1.0)

    def _send(self, share: float) -> None:
        self._reported = time.perf_counter()
        seconds = max(self._reported - self._began, 1e-9)
        self._progress(
            Progress(
                epoch=self._epoch,
                num_epochs=self._num_epochs,
                share=share,
                loss=self._loss,
                held_out_loss=self.held_out_loss,
                flows_per_s=self.num_flows / seconds,
                seconds_left=seconds * (1 - share) / share,
            )
        )
