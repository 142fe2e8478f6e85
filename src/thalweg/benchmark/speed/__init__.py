"""How fast: reading, decoding, scoring, listening, learning."""
