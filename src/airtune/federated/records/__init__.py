"""The files of a run: records, checkpoints, fingerprints and timings."""
