"""Examples: where they come from, who holds them, how an answer is scored."""
