"""Measures how well methods find attacks: data sets x methods x seeds under two protocols."""

from thalweg.runtime.extras import need

# Checked here, so that a missing package is reported at the start and not after hours of jobs.
need("altair", "pyod", "sklearn", extra="benchmark")
