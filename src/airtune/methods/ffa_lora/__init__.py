"""ffa_lora: federated LoRA with A frozen at its initial draw (arXiv 2403.12313)."""
