"""Flower as the carrier of a deployment: the same frames in its messages, and a warm trainer."""
