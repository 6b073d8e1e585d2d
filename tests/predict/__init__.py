"""``predict``: what a bundle says of new images."""
