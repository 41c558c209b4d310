"""One file per method, named as in the literature."""
