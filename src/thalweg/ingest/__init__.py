"""The room `ingest` of the house (docs/design.md)."""
