"""Planning of split rounds: cuts, subchannels and power of one round, on the estimated channel."""
