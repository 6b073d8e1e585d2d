"""The model one keeps: a bundle, applied to new images."""
