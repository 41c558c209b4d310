"""Joint pruning and bandwidth: the problem, its global optimum, simpler solvers."""
