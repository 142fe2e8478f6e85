"""What data sets and tools call the columns of a flow."""
