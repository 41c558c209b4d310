"""Devices, delays and energy."""
