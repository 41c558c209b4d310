"""Where clients are trained: this process, worker processes, a Ray cluster."""
