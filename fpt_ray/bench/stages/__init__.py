"""Each stage of ours, in turns with the same of the authors' procedure, beside what the machine gives at most."""
