"""The chain: read, cut, score, write."""
