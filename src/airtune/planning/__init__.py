"""Planning problems: keys, units and ranges, and numbers derived from a model and a cell."""
