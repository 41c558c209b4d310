"""centralised: LoRA on all data in one place, the reference for federated losses."""
