"""What a run leaves behind: records, checkpoints, fingerprints and timings."""
