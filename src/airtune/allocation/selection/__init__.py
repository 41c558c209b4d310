"""Client selection: the most weight within a deadline, or the least deadline for a weight."""
