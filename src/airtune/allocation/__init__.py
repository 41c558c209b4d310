"""Solvers: who gets which share of the radio resources, and how far from optimal that is."""
