"""One-way records -> flows: both directions together, duplicates left out, the initiator found."""
