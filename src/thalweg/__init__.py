"""Thalweg learns how the flows of a network normally run, and tells which flow left that line."""

__version__ = "0.1.0"
