"""`airtune cite`: entries made of what the methods state, and nothing made up."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from airtune.experiment.reading import read_config
from airtune.methods.citing import bibtex, references_of, references_of_run
from airtune.methods.parts import known_parts
from airtune.methods.registry import problem_specs, shipped_methods

Call = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    " ".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    + (ROOT / "README.md").read_text()
)


def test_a_method_is_cited_with_airtune(airtune: Call) -> None:
    code, out, err = airtune("cite", "lora_fair")
    assert (code, err) == (0, "")
    assert out.startswith("@software{airtune,\n")
    assert "@misc{bian2411.14961,\n  author = {Bian and others},\n  year = {2024}," in out
    assert "url = {https://arxiv.org/abs/2411.14961}" in out
    assert "title" not in out.partition("@misc")[2]
    assert airtune("cite")[1].count("@") == 1
    assert airtune("cite", "tsfa")[1] == airtune("cite", "soft_tsfa")[1]


def test_a_run_is_cited_with_the_parts_that_it_names(airtune: Call, tmp_path: Path) -> None:
    config = read_config(None, ["method=hetlora", "aggregator=flex-lora"])
    assert references_of_run(config) == [
        "Cho et al., arXiv 2401.06432",
        "Bai et al., arXiv 2402.11505",
    ]
    assert references_of_run(read_config(None, ["aggregator=lora-fair"]))[-1] == (
        "Bian et al., arXiv 2411.14961"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").write_text("format: 2\nmethod: jcpba\n")
    assert "@misc{pang2602.01024," in airtune("cite", "run")[1]


@pytest.mark.parametrize("name", [*shipped_methods(), *problem_specs()])
def test_every_method_states_papers_that_the_documents_name(name: str) -> None:
    references = references_of(name)
    assert references
    for reference in references:
        authors, number = re.fullmatch(r"(.+), arXiv (\d{4}\.\d{5})", reference).groups()  # type: ignore[union-attr]
        assert number in DOCUMENTS
        assert re.search(rf"{authors.split()[0]}[^.]* .*{number}", DOCUMENTS)


def test_parts_of_no_method_state_theirs() -> None:
    stated = [part for kind in known_parts().values() for part in kind.values() if part.references]
    assert [list(part.references) for part in stated] == [["Bai et al., arXiv 2402.11505"]]


def test_a_reference_without_a_number_is_a_note() -> None:
    assert "@misc{smith,\n  note = {Smith, a report}\n}" in bibtex(["Smith, a report"])


def test_an_unknown_name_is_one_sentence(airtune: Call) -> None:
    code, _, err = airtune("cite", "jcbpa")
    assert (code, "did you mean 'jcpba'?" in err) == (2, True)
