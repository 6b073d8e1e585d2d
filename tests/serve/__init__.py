"""``serve``: a bundle behind HTTP."""
