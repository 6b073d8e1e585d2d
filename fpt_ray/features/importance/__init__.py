"""What the stored tokens say of the LPM's blocks, without training: which are worth reading."""
