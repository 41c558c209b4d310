"""The map of the packages and their imports, generated from the code.

    python scripts/house_map.py            # docs/images/house.svg and the table of architecture.md
    python scripts/house_map.py --check    # exit 1 if one of them is out of date

An arrow means "imports". Drawn is the transitive reduction: where `a` imports `b` and `b` imports
`c`, an arrow from `a` to `c` is left out. Imports inside functions and by strings count; the
foundations (modules beside the packages), which every package may import, have no arrows.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "airtune"
DRAWING = ROOT / "docs" / "images" / "house.svg"
DOCUMENT = ROOT / "docs" / "architecture.md"
PLACE = re.compile(r"(<!-- house -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH, BOX, ROW, MARGIN = 760, (112, 34), 82, 30
LINE = 90
"""Characters of a line of foundations."""
"""Of the drawing, of a box, from row to row, and around all of it [px]."""
STYLE = """\
  .box { fill: #f4f6f8; stroke: #3b5b7a; stroke-width: 1.2 }
  .line { fill: none; stroke: #8496a8; stroke-width: 1.2; marker-end: url(#head) }
  text { font: 14px sans-serif; fill: #1f2d3a; text-anchor: middle }
  .small { font-size: 12px; fill: #5b6b7a }"""

PLACE_OF_CODE = re.compile(r"airtune(\.\w+)+(:\w+)?")
"""A module or a function as a string, which is imported when it is needed."""

Graph = Mapping[str, frozenset[str]]
"""Package -> the packages below it."""


def packages() -> list[str]:
    """Folders of airtune that hold code."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def import_graph() -> Graph:
    """Package -> the other packages that any of its files imports."""
    names = set(packages())
    return {
        name: frozenset(
            imported.split(".")[1]
            for path in (PACKAGE / name).rglob("*.py")
            for imported in _imports(path)
            if imported.split(".")[1] in names - {name}
        )
        for name in sorted(names)
    }


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if PLACE_OF_CODE.fullmatch(node.value) else []
        yield from (name for name in names if name.startswith("airtune."))


def reachable(graph: Graph, start: str) -> frozenset[str]:
    """Everything that `start` imports, through others too."""
    seen: set[str] = set()
    frontier = [*graph[start]]
    while frontier:
        name = frontier.pop()
        if name not in seen:
            seen.add(name)
            frontier += graph[name]
    return frozenset(seen)


def reduced(graph: Graph) -> Graph:
    """The fewest arrows with the same paths; the graph must have no cycle."""
    below = {name: reachable(graph, name) for name in graph}
    return {
        name: frozenset(t for t in targets if not any(t in below[other] for other in targets))
        for name, targets in graph.items()
    }


def levels(graph: Graph) -> dict[str, int]:
    """The longest way down from each package; 0: it imports no other package."""
    known: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in known:
            known[name] = 1 + max((level(target) for target in graph[name]), default=-1)
        return known[name]

    return {name: level(name) for name in graph}


def rows_of(graph: Graph) -> tuple[list[list[str]], Graph]:
    """Rows from the top, and the graph with a bend in every row that an arrow passes.

    Names of a row are exchanged as long as fewer arrows cross.
    """
    height = levels(graph)
    rows: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    links: dict[str, set[str]] = {name: set() for name in graph}
    for name in sorted(graph):
        rows[-1 - height[name]].append(name)
        for target in sorted(graph[name]):
            last = name
            for row in range(height[name] - 1, height[target], -1):
                bend = f"{name}>{target}@{row}"
                rows[-1 - row].append(bend)
                links.setdefault(last, set()).add(bend)
                last = bend
            links.setdefault(last, set()).add(target)
    below = {name: frozenset(targets) for name, targets in links.items()}
    while any(_improved(rows, row, below) for row in range(len(rows))):
        pass
    return rows, below


def _improved(rows: list[list[str]], row: int, links: Graph) -> bool:
    """Swap two neighbours of a row if fewer arrows then cross; whether any were swapped."""
    fewest, names = _crossings(rows, links), rows[row]
    for left in range(len(names)):
        for right in range(left + 1, len(names)):
            names[left], names[right] = names[right], names[left]
            if _crossings(rows, links) < fewest:
                return True
            names[left], names[right] = names[right], names[left]
    return False


def _crossings(rows: list[list[str]], links: Graph) -> tuple[int, float]:
    """Pairs of arrows that cross; then how far arrows go sideways."""
    count, sideways = 0, 0.0
    for upper, lower in pairwise(rows):
        arrows = [
            ((start + 0.5) / len(upper), (lower.index(target) + 0.5) / len(lower))
            for start, name in enumerate(upper)
            for target in sorted(links.get(name, ()))
        ]
        sideways += sum(abs(start - end) for start, end in arrows)
        count += sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in combinations(arrows, 2))
    return count, round(sideways, 6)


def drawing(graph: Graph) -> str:
    """The map as SVG; the same text for the same imports."""
    rows, links = rows_of(reduced(graph))
    place = {
        name: (round(WIDTH * (column + 0.5) / len(row)), MARGIN + ROW * number)
        for number, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    names = wrap(", ".join(foundations()), LINE)
    deep = 34 + 16 * len(names)
    height = MARGIN + ROW * len(rows) + deep
    width, tall = BOX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">',
        "<title>The packages of airtune and their imports</title>",
        f"<style>\n{STYLE}\n</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#8496a8"/></marker>',
    ]
    for name in sorted(graph):
        for target in sorted(links.get(name, ())):
            way = [place[name], place[target]]
            while target not in graph:
                (target,) = links[target]
                way.append(place[target])
            (x, y), *bends, (end_x, end_y) = way
            points = [(x, y + tall)]
            for bend_x, bend_y in bends:  # straight down between the boxes of a row
                points += [(bend_x, bend_y), (bend_x, bend_y + tall)]
            points.append((end_x, end_y))
            parts.append(f'<path class="line" d="M{" L".join(f"{a} {b}" for a, b in points)}"/>')
    for name in sorted(graph):
        x, y = place[name]
        box = f'x="{x - width // 2}" y="{y}" width="{width}" height="{tall}" rx="5"'
        parts.append(f'<rect class="box" {box}/><text x="{x}" y="{y + 22}">{name}</text>')
    bottom = MARGIN + ROW * len(rows)
    parts += [
        f'<rect class="box" x="{MARGIN}" y="{bottom - 20}" width="{WIDTH - 2 * MARGIN}" '
        f'height="{deep}" rx="5"/>',
        f'<text x="{WIDTH // 2}" y="{bottom}">foundations</text>',
    ]
    for number, line in enumerate(names, start=1):
        y = bottom + 2 + 16 * number
        parts.append(f'<text class="small" x="{WIDTH // 2}" y="{y}">{line}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def foundations() -> list[str]:
    """Modules beside the packages."""
    return sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__"))


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def table(graph: Graph) -> str:
    """Packages from the top down with their sentences, each with the packages inside it.

    Methods are left out: each has a document of its own.
    """
    height = levels(graph)
    lines = ["| part | what it is |", "|---|---|"]
    for name in sorted(graph, key=lambda name: (-height[name], name)):
        for init in sorted((PACKAGE / name).rglob("__init__.py")):
            path = init.parent.relative_to(PACKAGE).as_posix()
            if path.startswith("methods/"):
                continue
            lines.append(f"| `{path}/` | {sentence(init)} |")
    lines += [f"| `{name}.py` | {sentence(PACKAGE / f'{name}.py')} |" for name in foundations()]
    return "\n".join(lines) + "\n"


def contents() -> dict[Path, str]:
    """What both files should hold."""
    graph = import_graph()
    document = PLACE.sub(lambda found: f"{found[1]}{table(graph)}{found[2]}", DOCUMENT.read_text())
    return {DRAWING: drawing(graph), DOCUMENT: document}


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit code."""
    texts = contents()
    old = [path for path in texts if not path.is_file() or path.read_text() != texts[path]]
    for path in old:
        if "--check" in arguments:
            name = path.relative_to(ROOT)
            print(f"{name} is out of date: python scripts/house_map.py", file=sys.stderr)
        else:
            path.write_text(texts[path])
    return int("--check" in arguments and bool(old))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
