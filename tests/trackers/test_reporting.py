"""Trackers beside a run: what they are sent, and that none of them ends it."""

import json
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment, Run
from airtune.errors import AirtuneError, InputError
from airtune.experiment.digests import result_keys
from airtune.experiment.reading import read_config
from airtune.federated.records.run_folder import RunFolder
from airtune.trackers.reporting import Reporting
from airtune.trackers.shipped import TRACKERS, open_trackers
from tests.cli.conftest import airtune, quick
from tests.report.views import records
from tests.trackers.own import Failing, Kept
from tests.trackers.runs import SECRET, seen_files, tracked_run

__all__ = ["airtune"]

KEPT, FAILING = "tests.trackers.own:Kept", "tests.trackers.own:Failing"
KEYS = {"method": "fedlora", "seed": 0}


def calls(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "kept.jsonl").read_text().splitlines()]


def short(folder: Path) -> list[Any]:
    return [call[:3] if call[0] == "begin" else call[:2] for call in calls(folder)]


def folder_with(path: Path, rounds: int) -> RunFolder:
    path.mkdir()
    folder = RunFolder(path)
    for record in records(rounds=rounds):
        folder.append_record(record)
    return folder


def session(folder: RunFolder, done: int, tracker: Any, new: int = 0) -> list[str]:
    """One session: `done` rounds are there, `new` follow. Answers the notices."""
    said: list[str] = []
    with Reporting({"own": tracker}, folder, KEYS, 4, said.append) as trackers:
        trackers.started(done)
        for record in records(rounds=done + new)[done:]:
            trackers.round_done(record)
    return said


def test_a_later_session_goes_on_and_sends_what_is_missing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run", 3)
    assert session(folder, 1, Kept(), new=2) == []
    # Round 3 is made again; a session that begins with all of them sends nothing twice.
    assert session(folder, 2, Kept(), new=1) == []
    assert session(folder, 3, Kept()) == []
    assert short(folder.path) == [
        *(["begin", None, 0], ["log", 1], ["log", 2], ["log", 3], ["end", "finished"]),
        *(["begin", "id-1", 2], ["log", 3], ["end", "finished"]),
        *(["begin", "id-1", 3], ["end", "finished"]),
    ]
    assert calls(folder.path)[0][3] == f"{tmp_path.name}/run"


@pytest.mark.parametrize(
    ("method", "words", "then"),
    [
        ("begin", "before the first round, failed: ConnectionError: no route", [None, 0]),
        ("log", "in round 2, failed: SystemExit: 3", ["id-1", 1]),
        ("end", r"at the end, failed: OSError: \[Errno 28\] No space", ["id-1", 3]),
    ],
)
def test_a_failure_is_one_sentence_and_is_made_good_later(
    method: str, words: str, then: list[Any], tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "run", 3)
    (sentence,) = session(folder, 0, Failing(method=method), new=3)
    assert f"The tracker own, {words}".replace("\\", "") in sentence
    assert sentence.endswith("`airtune resume` sends it what it lacks.")
    (folder.path / "kept.jsonl").unlink(missing_ok=True)
    assert session(folder, 3, Kept()) == []
    begin, *rest = short(folder.path)
    assert begin == ["begin", *then]
    assert rest == [*(["log", step] for step in range(then[1] + 1, 4)), ["end", "finished"]]


def test_a_full_disk_is_the_tracker_s_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise AirtuneError(f"{path} cannot be written (No space left on device).")

    folder = folder_with(tmp_path / "run", 1)
    monkeypatch.setattr("airtune.trackers.reporting.write_json_atomic", full)
    (sentence,) = session(folder, 1, Kept())
    assert "trackers.json cannot be written (No space left on device). The run goes" in sentence


def test_a_damaged_memory_begins_a_new_run_there(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run", 1)
    (folder.path / "trackers.json").write_text('{"own": 7}')
    assert session(folder, 1, Kept()) == []
    assert short(folder.path) == [["begin", None, 0], ["log", 1], ["end", "finished"]]


def test_the_outcome_is_told(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run", 0)
    for error, word in ((KeyboardInterrupt(), "interrupted"), (AirtuneError("x"), "failed")):
        with pytest.raises(type(error)), Reporting({"own": Kept()}, folder, KEYS, 4, print) as r:
            r.started(0)
            raise error
        assert calls(folder.path)[-1] == ["end", word, {}]


def test_many_clients_are_told_of(tmp_path: Path) -> None:
    said: list[str] = []
    with Reporting({"own": Kept()}, folder_with(tmp_path / "r", 0), KEYS, 65, said.append) as r:
        r.started(0)
    assert said[0].startswith("With more than 64 clients trackers get the least, mean")


def test_a_run_with_a_tracker_that_fails_has_the_bytes_of_one_without(tmp_path: Path) -> None:
    said: list[str] = []

    class Ears:
        def notice(self, sentence: str) -> None:
            said.append(sentence)

    options = {"use": FAILING, "api_key": SECRET, "step": 2}
    run = tracked_run(tmp_path / "run", [KEPT, options], listener=Ears())
    plain = tracked_run(tmp_path / "plain", None)
    (sentence,) = [words for words in said if "tracker" in words and "Not written" not in words]
    assert f"The tracker {FAILING}, in round 2, failed: SystemExit: 3" in sentence
    assert sentence in run.notices
    for name in ("rounds.jsonl", "adapter/adapter_model.safetensors", "summary.json"):
        assert (run.folder.path / name).read_bytes() == (plain.folder.path / name).read_bytes()
    first, second = (
        [p.read_bytes() for p in sorted(r.folder.checkpoints.iterdir())] for r in (run, plain)
    )
    assert first == second
    # A key that is secret by its name is nowhere, not even in what trackers are given.
    assert seen_files(run.folder.path, SECRET) == []
    given = calls(run.folder.path)[0][4]
    assert given["training.learning_rate"] == 0.0125
    assert not any(key.startswith("jcpba.") for key in given)


def test_a_tracker_can_be_added_to_a_finished_run(airtune: Any, tmp_path: Path) -> None:
    assert airtune("run", "--out", "run", *quick("rounds=1", "clients.count=2"))[0] == 0
    before = (tmp_path / "run" / "rounds.jsonl").read_bytes()
    assert airtune("resume", "run", "--set", f"report_to={KEPT}")[0] == 0
    assert short(tmp_path / "run") == [["begin", None, 0], ["log", 1], ["end", "finished"]]
    assert calls(tmp_path / "run")[-1][2] == {"adapter": str(tmp_path / "run" / "adapter")}
    assert (tmp_path / "run" / "rounds.jsonl").read_bytes() == before
    assert Run.open(tmp_path / "run").config.report_to == KEPT


def test_no_result_depends_on_it() -> None:
    keys = result_keys(read_config(None))
    assert result_keys(read_config(None, [f"report_to={{use: {KEPT}, api_key: x}}"])) == keys


def test_a_missing_package_is_refused_before_anything_is_loaded(
    airtune: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("airtune.trackers.shipped.find_spec", lambda name: None)
    for name, tracker in TRACKERS.items():
        code, out, err = airtune("run", "--set", f"report_to={name}", "--out", "run")
        assert (code, out) == (2, "")
        (package,) = tracker.modules.values()
        assert err == (
            f"airtune: report_to {name} needs {package}, which is not installed: pip install "
            f"'airtune[{name}]', or set report_to=null.\n"
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(AirtuneError, match="is not installed"):
        Experiment.load(None, ["report_to=mlflow"]).preview()


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("tensorbord", "did you mean 'tensorboard'"),
        ([KEPT, KEPT], "twice, but it must be each tracker once"),
        ({"use": "wandb", "projekt": "x"}, "report_to.projekt is not a key"),
        ({"project": "x"}, "a mapping with the key 'use'"),
        ("tests.trackers.own:NoTracker", "a subclass of airtune.trackers.tracker.Tracker"),
        ({"use": KEPT, "colour": 1}, "options that it takes"),
        ("nowhere.at_all:Class", "importable"),
    ],
)
def test_a_wrong_name_is_one_sentence(named: Any, words: str) -> None:
    with pytest.raises(InputError, match="report_to") as caught:
        open_trackers(named)
    assert words in str(caught.value)


def test_what_a_check_raises_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Kept) -> None:
        raise RuntimeError("no login")

    monkeypatch.setattr(Kept, "check", check)
    with pytest.raises(AirtuneError, match=r"Kept failed: RuntimeError: no login.*null\.$"):
        open_trackers(KEPT)
