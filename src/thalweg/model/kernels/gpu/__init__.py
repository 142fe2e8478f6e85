"""Kernels for scoring on a GPU, float32, in Triton."""
