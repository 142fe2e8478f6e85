"""NetFlow v5 and v9 and IPFIX as they are received: datagrams -> records."""
