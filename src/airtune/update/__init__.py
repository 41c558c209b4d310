"""Codecs, means and server steps: what a client sends and how the server merges it."""
