"""Measures the speed of reading, decoding, scoring, receiving and training."""

from thalweg.runtime.extras import need

need("altair", extra="benchmark")
