"""The error terms of the papers' convergence bounds, of measured quantities."""
