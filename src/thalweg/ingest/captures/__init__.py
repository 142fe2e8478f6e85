"""Files of packets and of collectors: pcap, IPFIX files, nfcapd's files."""
