"""Several studies beside each other: their fronts, and how their best trials differ on the same test images."""
