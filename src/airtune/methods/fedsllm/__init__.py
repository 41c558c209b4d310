"""fedsllm: local accuracy and bandwidth of split training (arXiv 2407.09250)."""
