"""Reads files of packets and of collectors: pcap and pcapng, IPFIX files, nfcapd files."""
