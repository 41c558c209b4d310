"""Checks of a round: parts that fit together, feasible plans, finite answers."""
