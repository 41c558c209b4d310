"""Tasks and text that airtune makes by itself, deterministic in the seed."""
