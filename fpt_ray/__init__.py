"""FPT+ as a system: preload once, search many side networks."""

__version__ = "0.1.0"
