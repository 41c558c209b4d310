"""Training of a cohort: in this process, on worker processes, on a Ray cluster."""
