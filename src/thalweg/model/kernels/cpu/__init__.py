"""The kernels for scoring on a CPU, in float32, without gradients. Names and signatures are those of `reference`."""

from thalweg.model.kernels.cpu.attention import attend
from thalweg.model.kernels.cpu.edges import combine_ends, decode_edges
from thalweg.model.kernels.cpu.hosts import rowwise

__all__ = ["attend", "combine_ends", "decode_edges", "rowwise"]
