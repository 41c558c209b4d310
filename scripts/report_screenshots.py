"""The pictures of reports in the README and the tutorial, taken with headless Chromium.

    python scripts/report_screenshots.py runs/compare-builtin/report.html \
        runs/compare-builtin/jcpba-exact/seed-0/report.html
    python scripts/report_screenshots.py --tutorial FOLDER/runs/first/report.html
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import which

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=6000",
)
MOST_BYTES = 300_000
MOST_S = 120
"""A page takes a few seconds; a browser's first start can hang for good."""


def shoot(page: Path, size: tuple[int, int], image: Path, hidden: str = "none") -> None:
    """The top of a page, as wide as a laptop's screen, without the elements `hidden`."""
    browser = which("chromium") or which("google-chrome")
    if browser is None:
        sys.exit("chromium is missing: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        copy = Path(profile) / "page.html"
        # The plotting script of a comparison is beside its page, not beside the copy.
        base = f'<head><base href="{page.resolve().parent.as_uri()}/">'
        style = f"<style>{hidden} {{ display: none }}</style></head>"
        text = page.read_text().replace("<head>", base, 1).replace("</head>", style, 1)
        copy.write_text(text)
        subprocess.run(
            [
                browser,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--screenshot={image}",
                f"--window-size={size[0]},{size[1]}",
                copy.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=MOST_S,
        )
    if image.stat().st_size > MOST_BYTES:
        sys.exit(f"{image} has more than {MOST_BYTES} bytes: make the window smaller")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path, nargs="?", help="report.html of a comparison")
    parser.add_argument("run", type=Path, nargs="?", help="report.html of a run")
    parser.add_argument("--tutorial", type=Path, help="report.html of the tutorial's run")
    arguments = parser.parse_args()
    if arguments.tutorial:
        shoot(arguments.tutorial, (1366, 800), IMAGES / "tutorial_report.png")
    if arguments.comparison:
        shoot(arguments.comparison, (1366, 1308), IMAGES / "report_comparison.png")
    if arguments.run:
        learning = "#learning, #learning + .panels"
        shoot(arguments.run, (1366, 1370), IMAGES / "report_run.png", learning)


if __name__ == "__main__":
    main()
