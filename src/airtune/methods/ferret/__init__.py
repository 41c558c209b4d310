"""ferret: updates as coefficients on directions that both ends draw from a seed."""
