"""Parallel split training whose server aggregates gradients over clients."""
