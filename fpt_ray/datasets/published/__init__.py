"""Layouts of published data sets, one file each: a download becomes an image table."""
