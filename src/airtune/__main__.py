"""`python -m airtune ...` is `airtune ...`."""

from airtune.cli.main import entry

if __name__ == "__main__":
    entry()
