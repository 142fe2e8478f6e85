"""What runs the rest: threads, memory, compiled loops, whole files. Nothing here knows what a flow is."""
