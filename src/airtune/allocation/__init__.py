"""Solvers: the division of the radio resources, and its proven distance from the optimum."""
