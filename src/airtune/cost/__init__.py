"""The cost of a round for a client: devices, delays and energy."""
