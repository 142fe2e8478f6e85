"""How fast: reading, decoding, scoring, receiving, learning."""

from thalweg.runtime.extras import need

need("altair", extra="benchmark")
