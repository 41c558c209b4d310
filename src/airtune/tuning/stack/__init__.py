"""Many clients' adapters trained as one stack on one frozen base."""
