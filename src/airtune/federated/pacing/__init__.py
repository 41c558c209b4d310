"""Asynchronous rounds: one clock of events, updates under way, staleness, the shared band."""
