"""Independent sampling: participation probabilities, ranks and bandwidth of least expected time."""
