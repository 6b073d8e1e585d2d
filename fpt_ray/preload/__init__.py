"""Images become features, once (Ray Data)."""
