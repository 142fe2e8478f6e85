"""Proof: Thalweg beside its rivals, in detection and in speed."""
