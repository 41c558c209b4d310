"""`airtune device list` and `airtune device measure`."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result  # type: ignore[attr-defined]

from airtune.cli.device import app
from airtune.cost import measure as timing
from airtune.cost.device import load_devices
from airtune.errors import AirtuneError, InputError


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of exactly 100 GFLOP/s."""
    monkeypatch.setattr(
        timing,
        "measure_training",
        lambda seconds, dtype: timing.Measurement(1e11, (0.5, 0.5, 0.5), 2, dtype),
    )


def test_app_is_a_typer_app() -> None:
    assert isinstance(app, typer.Typer)


def test_list_shows_every_device() -> None:
    result = _run("list")
    assert result.exit_code == 0
    for name in load_devices():
        assert name in result.stdout
    assert "42.3 GFLOP/s" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_list_is_parted_by_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of different software stand in different tables, at any width of the terminal."""
    monkeypatch.setenv("COLUMNS", "40")
    parts = _run("list").stdout.split("\n\n")
    devices = load_devices()
    assert len(parts) == len({device.software for device in devices.values()}) + 1
    for part in parts[:-1]:
        head, _, *rows = part.splitlines()
        assert {devices[row.split()[0]].software for row in rows} == {
            head.removeprefix("Training rate with: ")
        }
    assert "compare devices within a table only" in parts[-1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--computing-power-w", "0"),
        ("--computing-power-w", "nan"),
        ("--computing-power-w", "7e5"),
        ("--tx-power-dbm", "inf"),
        ("--tx-power-dbm", "200"),
    ],
)
def test_measure_refuses_a_figure_before_it_measures(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(timing, "measure_training")
    result = _run("measure", option, value)
    assert isinstance(result.exception, InputError)
    assert result.exception.field == option.removeprefix("--").replace("-", "_")


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e9"])
def test_measure_ends(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(timing, "measure_training")
    result = _run("measure", "--seconds", seconds)
    assert result.exit_code != 0
    assert isinstance(result.exception, InputError | SystemExit)


def test_list_as_json_is_the_data_file() -> None:
    listed = json.loads(_run("list", "--json").stdout)
    assert listed == {name: device.mapping() for name, device in load_devices().items()}


def test_list_with_sources() -> None:
    result = _run("list", "--sources")
    assert "raspberry-pi-5: Raspberry Pi 5" in result.stdout
    assert "geerlingguy/top500-benchmark" in result.stdout


@pytest.mark.usefixtures("steady")
def test_measure_prints_a_profile_and_says_that_power_is_missing() -> None:
    result = _run("measure")
    assert result.exit_code == 0
    assert "training_flop_rate: 100000000000.0" in result.stdout
    assert "unknown" in result.stdout
    assert "--computing-power-w" in result.stderr


@pytest.mark.usefixtures("steady")
def test_measure_adds_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    assert _run("measure", "--out", str(path), "--name", "one").exit_code == 0
    result = _run(
        "measure",
        "--out",
        str(path),
        "--name",
        "two",
        "--computing-power-w",
        "30",
        "--tx-power-dbm",
        "20",
        "--json",
    )
    assert json.loads(result.stdout)["two"]["computing_power_w"] == 30.0
    assert result.stderr == ""
    devices = load_devices(path)
    assert devices["one"].computing_power_w is None
    assert devices["two"].tx_power_dbm == 20.0
    assert devices["two"].training_flop_rate == 1e11
    assert [*devices][-2:] == ["one", "two"]


@pytest.mark.usefixtures("steady")
def test_measure_refuses_before_it_times(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    _run("measure", "--out", str(path), "--name", "one")
    before = path.read_text()
    result = _run("measure", "--out", str(path), "--name", "one")
    assert isinstance(result.exception, InputError)
    assert "a name that" in str(result.exception)
    assert path.read_text() == before
    result = _run("measure", "--out", str(tmp_path / "none" / "own.yaml"))
    assert isinstance(result.exception, AirtuneError)


def test_an_unsteady_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        timing,
        "measure_training",
        lambda seconds, dtype: timing.Measurement(1e11, (0.5, 0.9, 0.5), 2, dtype),
    )
    assert "80% longer" in _run("measure", "--computing-power-w", "9").stderr
