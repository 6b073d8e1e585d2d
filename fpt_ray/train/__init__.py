"""One trial: loop, seeds, checkpoint, Ray Train."""
