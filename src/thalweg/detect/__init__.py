"""Logits -> scores: a detector with a threshold that a person can state."""

from thalweg.detect.calibrate import Budget, Threshold
from thalweg.detect.detector import MODELS, Detector

__all__ = ["MODELS", "Budget", "Detector", "Threshold"]
