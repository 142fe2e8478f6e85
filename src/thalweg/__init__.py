"""Thalweg learns how the flows of a network normally run, and tells which flow left that line.

import thalweg as tw

flows = tw.read("june.parquet")
detector = tw.Detector(seed=7).fit(flows)
scores = detector.score(tw.read("july.parquet"))
"""

import lazy_loader

__version__ = "0.1.0"

# The names and where they live are in __init__.pyi. Each is imported on first use: `import thalweg` does not wait for
# torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
