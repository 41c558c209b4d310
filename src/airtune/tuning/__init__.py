"""Local training of a client: adapters on a frozen base."""
