"""What a trial and a study are, as values; search spaces read from YAML."""
