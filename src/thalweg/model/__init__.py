"""FlowGraph -> edge logits: the autoencoder, its noise and its training."""

from thalweg.model.interface import FitSummary, FlowModel, Progress

__all__ = ["FitSummary", "FlowModel", "Progress"]
