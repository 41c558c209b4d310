"""Training data: sources, formats, partition over clients, scores of answers."""
