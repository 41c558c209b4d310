"""Counting a decoder by running it: transformers' own module on torch's meta device.

There tensors have shapes and no numbers, so that a step of any size costs the same and no weights
are needed. `module` makes and reads the model, `counter` runs it, `operations` replaces what torch
counts or runs differently by device. Nothing else below `workload` imports torch.
"""
