"""The recordings and checkpoints of the authors' code."""
