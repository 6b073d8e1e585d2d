"""A folder or a table becomes one checked image table; images are decoded, resized, augmented."""
