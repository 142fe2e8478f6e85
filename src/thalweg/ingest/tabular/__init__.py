"""Reads tables of flows in text, Parquet and Arrow, and recognises the dialect of their columns."""
