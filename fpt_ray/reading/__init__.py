"""A trial's rows: from its GPU, the host's shared memory or disk, or the store's files."""
