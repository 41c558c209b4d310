"""The command line: one file a command, progress and summaries at the terminal."""
