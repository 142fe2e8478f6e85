"""Pairs one-way records into flows: joins both directions, leaves out duplicates, identifies the initiator."""
