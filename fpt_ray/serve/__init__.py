"""A bundle behind HTTP: Ray Serve, and a page to drop an image on."""
