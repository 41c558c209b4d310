"""mkdocs hook: links of a document to files outside docs/ lead to the repository.

In the repository a document may link to `../experiments/x.yaml`; the built site has no such file.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/airtune/airtune/blob/main/"
OUTSIDE = re.compile(r"\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with such links made absolute; a link to a file that is not there is an error."""

    def absolute(link: re.Match[str]) -> str:
        target = link[1].partition("#")[0]
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"a document links to {target}, which does not exist")
        return f"]({REPOSITORY}{link[1]})"

    return OUTSIDE.sub(absolute, markdown)
