"""The feature store: spec, files, rows, faults (no Ray)."""
