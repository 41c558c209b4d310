"""What came from the environment is written nowhere and said nowhere; its name is."""

from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment, Run
from airtune.comparison.definition import read_comparison
from airtune.comparison.runs import check_comparison, run_comparison
from airtune.config.text import plain_values, resolved_yaml
from airtune.errors import AirtuneError, InputError, hide, redacted
from airtune.experiment.reading import check_filled, default_experiment, read_config
from tests.cli.conftest import airtune, quick

__all__ = ["airtune"]

SECRET, LITERAL = "s3cr3t-of-the-environment", "p4ssw0rd-in-clear"
PART = """from dataclasses import dataclass

from airtune.update.codec import DenseCodec


@dataclass(frozen=True)
class Asking(DenseCodec):
    token: str = ""
    password: str = ""
    share: float = 1.0
"""


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hidden here is nobody else's."""
    monkeypatch.setattr("airtune.errors._templates", {})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "part_of_secrets.py").write_text(PART)
    (tmp_path / "p" / "rows.jsonl").write_text(
        "".join(f'{{"prompt": "p{k}", "completion": "c{k}"}}\n' for k in range(40))
    )
    (tmp_path / "p" / "mine.yaml").write_text(
        "data: {train: '${SECRET_PLACE}/rows.jsonl'}\n"
        "training: {learning_rate: '${SECRET_RATE}'}\n"
        "codec:\n  use: part_of_secrets:Asking\n  token: 'Bearer ${SECRET_TOKEN}'\n"
        f"  password: {LITERAL}\n  share: 0.5\n"
    )
    monkeypatch.setenv("SECRET_PLACE", str(tmp_path / "p"))
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    monkeypatch.setenv("SECRET_RATE", "0.003")
    return tmp_path / "p"


def leaks(folder: Path, *secrets: str) -> list[str]:
    return [
        f"{path.name}: {secret}"
        for path in folder.rglob("*")
        if path.is_file()
        for secret in secrets
        if secret.encode() in path.read_bytes()
    ]


def test_no_file_of_a_run_holds_a_secret(
    airtune: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick("rounds=1", "clients.count=2", f"codec.token={SECRET}")
    code, out, err = airtune("run", place / "mine.yaml", "--out", place / "run", *settings)
    assert (code, err) == (0, "")
    assert "Not written into the run folder" in out
    assert leaks(place / "run", SECRET, LITERAL) == []
    command = (place / "run" / "environment.json").read_text()
    assert "codec.token=..." in command
    text = (place / "run" / "experiment.yaml").read_text()
    assert "token: ${AIRTUNE_CODEC_TOKEN}" in text
    assert "password: ${AIRTUNE_CODEC_PASSWORD}" in text
    assert "train: ${SECRET_PLACE}/rows.jsonl" in text
    assert "learning_rate: ${SECRET_RATE}" in text
    # What goes on with it says all that is missing, by name.
    code, _, err = airtune("resume", place / "run")
    assert code == 2
    assert "set AIRTUNE_CODEC_TOKEN and AIRTUNE_CODEC_PASSWORD in the environment" in err
    monkeypatch.setenv("AIRTUNE_CODEC_TOKEN", SECRET)
    monkeypatch.setenv("AIRTUNE_CODEC_PASSWORD", "another is no change")
    assert airtune("resume", place / "run", "--rounds", "2", "--quiet")[::2] == (0, "")
    assert leaks(place / "run", SECRET, LITERAL) == []
    # Another value of a key that changes the result is one, and the digest does not tell which.
    monkeypatch.setenv("SECRET_RATE", "0.004")
    code, _, err = airtune("resume", place / "run", "--rounds", "3")
    assert code == 2
    assert "training.learning_rate is ${SECRET_RATE} (digest" in err
    assert "0.004" not in err


def test_messages_hold_the_template(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = quick("data.train=${SECRET_PLACE}/nothing.jsonl")[1::2]
    with pytest.raises(AirtuneError) as caught:
        Experiment.load(None, settings).run(place / "run")
    assert "${SECRET_PLACE}/nothing.jsonl" in str(caught.value)
    assert str(place) not in str(caught.value)
    monkeypatch.delenv("SECRET_TOKEN")
    monkeypatch.delenv("SECRET_RATE")
    with pytest.raises(InputError, match="set SECRET_RATE and SECRET_TOKEN in the environment"):
        read_config(place / "mine.yaml")


def test_redaction_leaves_other_words_alone() -> None:
    hide("data", "${SOME_WORD}")
    assert redacted("data.train is /x/data, database, data.") == (
        "data.train is /x/${SOME_WORD}, database, ${SOME_WORD}."
    )
    hide("abc", "${SHORT}")
    assert redacted("abc") == "abc"


def test_templates_follow_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that was changed since is no longer the environment's."""
    monkeypatch.setenv("SECRET_NUMBER", "7")
    config = check_filled({"rounds": "${SECRET_NUMBER}", "seed": "${SECRET_NUMBER}"})
    assert (config.rounds, config.seed) == (7, 7)
    changed = config.model_copy(update={"rounds": 8})
    assert plain_values(changed)["rounds"] == 8
    assert plain_values(changed)["seed"] == "${SECRET_NUMBER}"
    assert "seed: ${SECRET_NUMBER}" in resolved_yaml(changed)
    assert plain_values(config, templates=False)["seed"] == 7
    assert check_filled({}) == default_experiment()


@pytest.mark.slow
def test_a_comparison_goes_on_without_its_secrets(place: Path) -> None:
    (place / "compare.yaml").write_text(
        "experiment: mine.yaml\n"
        "arms: {one: {method: fedlora}, two: {fedlora: {bandwidth: equal}}}\n"
    )
    from airtune.part_folders import make_importable

    make_importable(place)
    settings = quick("rounds=1", "clients.count=2", "data.score_rows=0")[1::2]
    asked = read_comparison(place / "compare.yaml", (), settings)
    results = run_comparison(asked, place / "out")
    assert [result.failure for result in results] == [None, None]
    assert leaks(place / "out", SECRET, LITERAL) == []
    check_comparison(read_comparison(place / "compare.yaml", (), settings), place / "out")
    other = read_comparison(place / "compare.yaml", (), [*settings, "training.local_steps=2"])
    with pytest.raises(InputError, match=r"another training\.local_steps"):
        check_comparison(other, place / "out")
    assert Run.open(results[0].folder).folder.experiment.is_file()
