"""What the networks of a bundle looked at in an image, drawn and scored."""
