"""Latency and energy: CPU speed, transmit power and bandwidth, least weighted cost in budgets."""
