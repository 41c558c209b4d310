"""Experiment trackers: TensorBoard, Weights & Biases, MLflow, and a user's own."""
