"""A served bundle under load, in turns with a plain loop of ``predict``."""
