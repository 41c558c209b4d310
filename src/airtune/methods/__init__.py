"""Learning methods: one folder each, described once and found by `registry.py`."""
