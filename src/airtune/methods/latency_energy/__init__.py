"""latency_energy: bandwidth, CPU speed and transmit power, latency weighed against energy."""
