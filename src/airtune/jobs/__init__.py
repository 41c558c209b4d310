"""Several runs: continuing them, several at once, and warm processes that start in an instant."""
