"""Watching runs that end, go on, or wait: words, the page on the loopback, and the command."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from airtune.config.text import resolved_yaml
from airtune.errors import InputError
from airtune.experiment.reading import check_filled
from airtune.federated.records.run_folder import RunFolder
from airtune.folder_lock import is_held, locked
from airtune.watching.pages import live_page, read_state, state_json
from airtune.watching.server import WatchServer
from airtune.watching.state import kind_of_folder, read_run_state, read_runs_state
from airtune.watching.words import run_sentence, runs_sentence, sparkline
from tests.cli.conftest import airtune
from tests.report.views import records

Call = Callable[..., tuple[int, str, str]]
__all__ = ["airtune"]


def made_run(folder: Path, done: int, rounds: int = 6, *, ended: bool = False) -> Path:
    """The folder of a run with so many rounds."""
    folder.mkdir(parents=True, exist_ok=True)
    config = check_filled({"rounds": rounds, "clients": {"count": 4}})
    (folder / "experiment.yaml").write_text(resolved_yaml(config))
    run = RunFolder(folder)
    for record in records(rounds=done):
        run.append_record(record)
        run.append_timing({"round": record.round, "real_s": 2.0, "stages": {"tune": 2.0}})
    if ended:
        summary = {"rounds": done, "stopped": None, "start_test_loss": 3.0}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_a_run_in_each_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path / "run", 2)
    assert "2 of 6 rounds are done, and no process works on the run" in run_sentence(
        read_run_state(run)
    )
    with locked(run):
        assert is_held(run)
        with monkeypatch.context() as patch:
            patch.setattr("airtune.folder_lock._LOCKS", tmp_path / "none")
            assert is_held(run)
        state = read_run_state(run)
        assert state.real_left_s == 8.0
        assert state.virtual_left_s == pytest.approx(2 * state.records[-1].virtual_time_s)
        assert run_sentence(state).startswith("Running: 2 of 6 rounds; about 8 s left, ")
    assert not is_held(run)
    monkeypatch.setattr("airtune.folder_lock._LOCKS", tmp_path / "none")
    assert not is_held(run)
    ended = made_run(tmp_path / "ended", 6, ended=True)
    assert run_sentence(read_run_state(ended)) == "The run has ended after 6 of 6 rounds."
    # A finished run that was told to go on runs again.
    longer = made_run(tmp_path / "longer", 6, rounds=9, ended=True)
    assert read_run_state(longer).state == "not running"


def test_a_line_that_is_being_written_is_no_round_yet(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", 2)
    with (run / "rounds.jsonl").open("ab") as stream:
        stream.write(b'{"round": 3, "virt')
    assert read_run_state(run).done == 2


def test_runs_of_a_sweep_and_of_a_comparison(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    made_run(sweep / "points" / "1-rank=2" / "seed-0", 6, ended=True)
    made_run(sweep / "points" / "2-rank=4" / "seed-0", 1)
    (sweep / "sweep.yaml").write_text("grid: {rank: [2, 4, 8]}\nlist: []\nseeds: 2\n")
    state = read_runs_state(sweep)
    assert (state.kind, state.planned, state.ended) == ("sweep", 6, 1)
    assert [run.name for run in state.runs] == ["1-rank=2, seed 0", "2-rank=4, seed 0"]
    assert "No process works on the sweep: 1 of 6 runs have ended" in runs_sentence(state)
    with locked(sweep):
        assert runs_sentence(read_runs_state(sweep)).startswith("The sweep is running: 1 of 6")
    # Its table is the last file that is written; points that were refused are no runs.
    (sweep / "sweep.json").write_text("{}")
    told = runs_sentence(read_runs_state(sweep))
    assert told == "The sweep has ended: 1 of 6 runs have ended."
    made_run(tmp_path / "compare" / "fast" / "seed-0", 6, ended=True)
    (tmp_path / "compare" / "comparison.json").write_text("{}")
    state = read_runs_state(tmp_path / "compare")
    assert (state.kind, runs_sentence(state)) == (
        "comparison",
        "The comparison has ended: 1 runs have ended.",
    )
    assert "<th>fast, seed 0</th><td>ended</td>" in live_page(state)


def test_points_of_a_problem_are_counted(tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    (tmp_path / "sweep.yaml").write_text("grid: {bandwidth_hz: [1, 2, 3]}\nlist: []\nseeds: 1\n")
    (tmp_path / "points" / "1.json").write_text("{}")
    state = read_runs_state(tmp_path)
    assert (state.ended, state.planned) == (1, 3)


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_other_folders_are_refused(airtune: Call, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for option in ((), ("--terminal",)):
        code, out, err = airtune("watch", name, *option)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "the folder of a run, a comparison or a sweep" in err
    with pytest.raises(InputError):
        kind_of_folder(tmp_path / name)


def test_sparklines_keep_the_shape() -> None:
    assert sparkline([3.0, 2.0, 1.0], 10) == "█▅▁"
    assert sparkline([1.0] * 40 + [2.0] * 40, 4) == "▁▁██"
    assert len(sparkline(list(range(1000)), 30)) == 30


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[WatchServer, Path]]:
    run = made_run(tmp_path / "run", 2)
    server = WatchServer(run)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server, run
    server.stop()
    thread.join()
    server.close()


def get(server: WatchServer, path: str, host: str | None = None) -> tuple[int, str]:
    place = urlsplit(server.address)
    assert place.hostname == "127.0.0.1"
    connection = HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_page_follows_the_run_and_writes_nothing(served: tuple[WatchServer, Path]) -> None:
    server, run = served
    before = _snapshot(run)
    status, page = get(server, "/")
    assert (status, page.count('id="shown"')) == (200, 1)
    assert "Loss against virtual time" in page
    # Nothing is fetched from elsewhere.
    assert "http" not in page.replace("http://www.w3.org", "")
    first = json.loads(get(server, "/state.json")[1])
    assert first["version"] == "2/6 not running"
    assert _snapshot(run) == before
    RunFolder(run).append_record(records(rounds=3)[2])
    assert json.loads(get(server, "/state.json")[1])["version"] == "3/6 not running"
    assert "3 of 6 rounds are written" in get(server, "/")[1]
    assert get(server, "/plotting.js")[1].startswith("const plotly")


def test_only_this_page_is_served(served: tuple[WatchServer, Path]) -> None:
    server, _ = served
    for path in ("/experiment.yaml", "/../run/experiment.yaml", "//etc/passwd", "/state.json/"):
        assert get(server, path)[0] == 404
    assert get(server, "/", host="elsewhere.example")[0] == 403
    assert get(server, "/state.json", host=f"localhost:{urlsplit(server.address).port}")[0] == 200


def test_before_the_first_round(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", 0)
    state = read_state(run)
    assert "No round has ended yet." in live_page(state)
    assert state_json(state)["version"] == "0/6 not running"


def test_the_terminal_view_of_a_pipe(
    airtune: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_run(tmp_path / "run", 6, ended=True)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = airtune("watch", tmp_path / "run", "--terminal")
    assert (code, err) == (0, "")
    assert "The run has ended after 6 of 6 rounds." in out
    assert "test loss  █" in out
    assert max(map(len, out.splitlines())) <= 80
    code, _, err = airtune("watch", tmp_path / "run", "--terminal", "--port", 8000)
    assert code == 2
    assert "--port is 8000" in err


@pytest.mark.usefixtures("heard_signals")
def test_ctrl_c_ends_the_page_and_gives_the_port_back(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", 2)
    command = [sys.executable, "-u", "-m", "airtune", "watch", str(run)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as watch:
        assert watch.stdout is not None
        address = watch.stdout.readline().partition(" ")[0]
        place = urlsplit(address)
        assert place.hostname == "127.0.0.1"
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=60)
    assert (watch.returncode, err) == (0, "")
    again = WatchServer(run, place.port or 0)
    again.close()
