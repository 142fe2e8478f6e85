"""Dialects: the names that data sets and tools give to the columns of a flow."""
