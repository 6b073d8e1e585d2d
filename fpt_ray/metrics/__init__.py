"""Numbers in, numbers out: scores, intervals, the Pareto front."""
