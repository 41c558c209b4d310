"""`python -m airtune ...` is `airtune ...`."""

import os
import sys

if __name__ == "__main__":
    # Python puts the current folder first, from which `airtune` would not import either: it may be
    # a run folder, which is data.
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]

    from airtune.cli.main import entry

    entry()
