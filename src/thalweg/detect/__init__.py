"""Logits -> scores: a detector with a threshold that a person can state."""

from thalweg.detect.detector import MODELS, Detector
from thalweg.detect.drift import Drift, DriftRecord
from thalweg.detect.profile import TrafficProfile
from thalweg.detect.threshold import Budget, Calibration, Threshold

__all__ = ["MODELS", "Budget", "Calibration", "Detector", "Drift", "DriftRecord", "Threshold", "TrafficProfile"]
