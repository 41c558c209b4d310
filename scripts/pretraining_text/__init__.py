"""The makers of the text on which the built-in model is pretrained."""
