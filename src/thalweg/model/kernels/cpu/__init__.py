"""Kernels for scoring on a CPU, float32."""
