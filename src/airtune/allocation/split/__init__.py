"""Split training: split point, rank, subchannels and power of least total delay."""
