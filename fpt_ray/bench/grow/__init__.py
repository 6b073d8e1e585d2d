"""How cost grows with one size at a time."""
