"""A trial's rows: from the host's shared memory, or streamed from the store's files."""
