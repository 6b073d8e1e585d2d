"""Image tables are prepared."""
