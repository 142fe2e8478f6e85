"""nfcapd's files -> records."""
