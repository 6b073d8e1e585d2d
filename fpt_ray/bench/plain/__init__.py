"""Each stage as the authors' procedure takes it, to be measured against."""
