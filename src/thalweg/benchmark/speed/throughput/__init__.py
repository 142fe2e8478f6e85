"""`thalweg benchmark throughput`: flows a second, memory, exactness and dwell time."""
