"""Reads the files of nfcapd into records."""
