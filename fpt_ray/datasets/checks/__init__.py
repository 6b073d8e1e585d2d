"""What is odd or wrong about a table of images, as functions over its columns."""
