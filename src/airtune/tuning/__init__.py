"""How a client trains: adapters on a frozen base."""
