"""Watching a run, a comparison or a sweep from another process: a live page, or a terminal."""
