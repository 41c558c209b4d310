"""What a training step costs: parameters, FLOPs, memory and payload of a transformer."""
