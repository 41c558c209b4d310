"""The work of fine-tuning, its memory and payload, from a model config alone."""
