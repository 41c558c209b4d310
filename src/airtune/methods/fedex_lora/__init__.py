"""fedex_lora: mean factors, their residual in the base (Singhal et al., arXiv 2410.09432)."""
