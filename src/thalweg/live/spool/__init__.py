"""The queue on disk between the two processes."""
