"""sflllm: split federated LoRA, in the manner of Zhao et al., arXiv 2504.14667."""
