"""sampled_lora: independent sampling with random rank sketches (Geng et al., arXiv 2505.23555)."""
