"""Sources besides sockets: logs as they grow, folders as files appear, Kafka."""
