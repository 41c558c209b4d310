"""Split training: client halves, the main server's half, and the link across the cut."""
