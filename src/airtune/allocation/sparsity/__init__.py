"""Ranks sent and bandwidth under a long-term latency target."""
