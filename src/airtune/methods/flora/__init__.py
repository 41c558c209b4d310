"""flora: clients' LoRA products, stacked, merged into the base (Wang et al., arXiv 2409.05976)."""
