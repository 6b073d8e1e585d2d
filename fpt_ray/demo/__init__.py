"""Semi-synthetic fundus images."""
