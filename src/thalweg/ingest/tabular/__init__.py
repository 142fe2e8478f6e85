"""Tables with any columns -> flows: text, Parquet, Arrow; whose columns they are."""
