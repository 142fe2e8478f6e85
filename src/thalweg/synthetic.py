"""Labelled traffic with planted attacks."""
