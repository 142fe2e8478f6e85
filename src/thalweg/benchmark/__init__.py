"""The room `benchmark` of the house (docs/design.md)."""
