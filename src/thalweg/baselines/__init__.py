"""The room `baselines` of the house (docs/design.md)."""
