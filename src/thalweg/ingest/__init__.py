"""Bytes and files -> `Flows`: which formats, which dialects, and one way to read them all."""

import lazy_loader

# Each name of __init__.pyi is imported on first use: a process that only receives should not load readers of files.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
