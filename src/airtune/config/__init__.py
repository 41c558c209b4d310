"""The experiment file: keys, their checks, and the text of the file."""
