"""The room `graph` of the house (docs/design.md)."""
