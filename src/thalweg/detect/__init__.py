"""The room `detect` of the house (docs/design.md)."""
