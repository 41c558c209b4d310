"""fedkseed: training without a backward pass, as coefficients on candidate directions."""
