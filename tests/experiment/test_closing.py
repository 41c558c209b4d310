"""The end of a run: whatever fails there is finished by `airtune resume`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import AirtuneError, DivergedError
from airtune.experiment import closing
from airtune.experiment.closing import close_run
from airtune.federated.records.run_folder import RunFolder
from tests.cli.conftest import airtune, quick  # noqa: F401 (a fixture)
from tests.cli.test_run import fingerprint


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            AirtuneError("report.html cannot be written (No space left on device)."),
            r"^report\.html cannot be written \(No space left on device\)\. Every finished round",
        ),
        (IndexError("index out of range in self"), r"^The closing of the run failed: IndexError"),
        (OSError(28, "No space left on device"), r"^The closing of the run failed: OSError"),
    ],
)
@pytest.mark.parametrize("diverged", [None, DivergedError("Training diverged in round 2.")])
def test_a_closing_that_fails_says_how_it_is_finished(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    sentence: str,
    diverged: Any,
) -> None:
    def fails(*arguments: Any) -> None:
        raise failure

    monkeypatch.setattr(closing, "finish", fails)
    nothing: Any = None
    with pytest.raises(AirtuneError, match=sentence) as caught:
        close_run(nothing, nothing, RunFolder(tmp_path / "a run"), diverged)
    assert str(caught.value).endswith(
        f"`airtune resume '{tmp_path}/a run'` writes what is missing."
    )
    assert caught.value.exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["write_result", "write_json_atomic", "write_text_atomic", "render"]
)
def test_resume_finishes_what_the_closing_could_not(
    airtune: Callable[..., tuple[int, str, str]],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    settings = quick("rounds=1", "data.score_rows=0")
    assert airtune("run", *settings, "--out", "whole", "--quiet")[0] == 0

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(closing, step, full)
        code, _, error = airtune("run", *settings, "--out", "run", "--quiet")
    assert (code, error.count("\n")) == (2, 1)
    assert "`airtune resume run` writes what is missing" in error
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 1
    assert airtune("resume", "run", "--quiet")[0] == 0
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 1
