"""Split training with client halves that stay at their clients, each with its own cut."""
