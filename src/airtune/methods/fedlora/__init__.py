"""fedlora: federated averaging of LoRA factors, the band split equally or optimally."""
