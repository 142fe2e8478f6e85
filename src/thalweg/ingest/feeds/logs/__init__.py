"""Logs as they grow and rotate."""
