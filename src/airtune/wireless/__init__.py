"""The radio cell: where clients are, what their links carry."""
