"""What a configuration costs, without running it."""
