"""What was measured, and what a model makes of it."""
