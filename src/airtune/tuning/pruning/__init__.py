"""Training on a pruned copy: which units are kept, the smaller model, and the tuner."""
