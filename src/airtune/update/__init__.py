"""What a client sends and how the server merges it."""
