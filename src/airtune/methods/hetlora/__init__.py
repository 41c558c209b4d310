"""hetlora: a LoRA rank per client by device speed (Cho et al., arXiv 2401.06432)."""
