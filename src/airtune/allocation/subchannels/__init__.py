"""Subchannels and power of one uplink: assignments, water-filling, and bounds."""
