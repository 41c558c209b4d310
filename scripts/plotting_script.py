"""The plotting script inside the pages of reports: plotly.js with its cartesian charts alone.

    npm pack plotly.js-cartesian-dist-min@4.1.1
    python scripts/plotting_script.py plotly.js-cartesian-dist-min-4.1.1.tgz

The version is that of the plotly package in constraints.txt
(`plotly.offline.get_plotlyjs_version`), whose own script is three times as large. The licence, MIT,
stands at the top of the script.
"""

import gzip
import sys
import tarfile
from pathlib import Path

PACKED = Path(__file__).resolve().parents[1] / "src/airtune/report/plotting.js.gz"
NAME = "package/plotly-cartesian.min.js"


def main() -> None:
    with tarfile.open(sys.argv[1]) as archive:
        found = archive.extractfile(NAME)
        if found is None:
            sys.exit(f"{NAME} is not in {sys.argv[1]}")
        PACKED.write_bytes(gzip.compress(found.read(), 9, mtime=0))


if __name__ == "__main__":
    main()
