"""What describes the project to others: citation, image, versions."""

import re
import shlex
import tomllib
from pathlib import Path

import airtune
from airtune.files import read_yaml_mapping
from airtune.methods.citing import AIRTUNE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_that_of_this_version() -> None:
    found = read_yaml_mapping(ROOT / "CITATION.cff", "")
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == PROJECT["version"] == airtune.__version__
    assert found["authors"] == PROJECT["authors"] == [{"name": "The airtune developers"}]
    assert found["license"] == PROJECT["license"]
    assert found["abstract"] == PROJECT["description"]
    assert {"message", "title", "type", "repository-code"} <= found.keys()
    assert f"version = {{{airtune.__version__}}}" in AIRTUNE
    assert found["repository-code"] in AIRTUNE


def test_links_of_the_readme_lead_somewhere_from_a_package_index() -> None:
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]
    text = (ROOT / "README.md").read_text()
    for change in hooks["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    images = [link for link in links if link.endswith(".png")]
    assert images
    assert all(link.startswith("https://raw.githubusercontent.com/") for link in images)


def copied() -> list[str]:
    """What the Dockerfile copies from here."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [source.removesuffix("/") for line in lines for source in shlex.split(line)[:-1]]


def test_the_image_copies_what_there_is_and_what_a_wheel_is_made_of() -> None:
    paths = copied()
    assert [path for path in paths if not (ROOT / path).exists()] == []
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    needed = {*included["targets"]["wheel"]["force-include"], "src", "README.md", "LICENSE"}
    assert [path for path in needed if path.partition("/")[0] not in paths] == []
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert [path for path in paths if f"!{path}" not in ignored] == []


def test_the_image_runs_as_a_user_with_the_python_that_is_asked_for() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:3.11-slim"}
    assert PROJECT["requires-python"] == ">=3.11"
    assert text.index("USER airtune") < text.index('ENTRYPOINT ["airtune"]')
    assert "-c /tmp/constraints.txt" in text


def test_constraints_pin_what_airtune_and_its_trackers_need() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    extras = PROJECT["optional-dependencies"]
    needs = [
        *PROJECT["dependencies"],
        *(n for e in ("tensorboard", "wandb", "mlflow") for n in extras[e]),
    ]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[>=\[]", need)[0]).lower() for need in needs}
    assert names - pinned == set()
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())
