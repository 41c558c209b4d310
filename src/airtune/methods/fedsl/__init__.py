"""Split training with pruned client halves, and random dropping and few bits at the cut."""
