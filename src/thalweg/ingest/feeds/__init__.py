"""What can be listened to: logs as they grow, folders as they fill, Kafka."""
