"""``predict.evidence``: what the networks of a bundle looked at, drawn and scored."""
