"""The federated loop: one round, the clock, checkpoints and records."""
