"""Anomal-E."""
