"""Figure 2 of the paper: memory of training against resolution."""
