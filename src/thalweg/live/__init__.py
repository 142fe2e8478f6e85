"""Listen and score as flows come: one process receives into a spool, another one reads it, scores and writes."""
