"""lora_fair: the mean of LoRA factors, B corrected towards the mean of products."""
