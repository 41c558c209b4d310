"""Comparison of methods: the same cell, devices, data and seeds for every arm."""
