"""A study: trials on Ray Tune, written to MLflow, scored once."""
