"""How fast: reading, decoding, scoring, listening, learning."""

from thalweg.runtime.extras import need

need("altair", extra="benchmark")
