"""`thalweg benchmark throughput`: flows a second, memory, numerical error and dwell time."""
