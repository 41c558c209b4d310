"""Seeded fuzz of what a user may hand to the command line."""
