"""What fine-tuning computes, holds and sends, from a model config alone."""
