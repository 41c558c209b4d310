"""What a round costs a client: devices, delays and energy."""
