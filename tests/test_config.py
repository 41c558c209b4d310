"""The experiment file: what is wrong is said in one sentence; what is written reads back."""

from pathlib import Path

import pytest

from airtune.config.experiment import ExperimentConfig, with_settings
from airtune.config.text import commented, resolved_yaml
from airtune.errors import AirtuneError, InputError
from airtune.experiment.reading import default_experiment, read_config
from airtune.section import check


def test_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("data: {train: '${AIRTUNE_DATA}/train.jsonl'}\nclients: {devices: ['${KIND}']}")
    monkeypatch.setenv("AIRTUNE_DATA", "/somewhere")
    monkeypatch.delenv("KIND", raising=False)
    with pytest.raises(AirtuneError) as error:
        read_config(path)
    assert str(error.value) == (
        "clients.devices is ${KIND}, but it must be without variables that are not set: set KIND "
        "in the environment."
    )
    read = read_config(path, ["clients.devices=[pixel-9]"])
    assert read.data.train == "/somewhere/train.jsonl"
    assert read.clients.devices == ["pixel-9"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("celll.bandwidth_hz=1", "celll is not a key that airtune knows: did you mean 'cell'?"),
        (
            "cell.bandwith_hz=1",
            "cell.bandwith_hz is not a key that airtune knows: did you mean 'bandwidth_hz'?",
        ),
        ("adapter.rnk=3", "adapter.rnk is not a key that airtune knows: did you mean 'rank'?"),
        ("cell.bandwidth_hz=-5", "cell.bandwidth_hz is -5, but it must be a number above 0."),
        ("adapter.rank=0", "adapter.rank is 0, but it must be a whole number of at least 1."),
        (
            "adapter.dropout=1",
            "adapter.dropout is 1, but it must be a number from 0 to below 1.",
        ),
        ("rounds=many", "rounds is many, but it must be a whole number from 1 to 99999."),
        ("rounds=2.5", "rounds is 2.5, but it must be a whole number from 1 to 99999."),
        ("stop.target_loss=.nan", "stop.target_loss is nan, but it must be a number above 0."),
        ("clients.devices=3", "clients.devices is 3, but it must be a list of at least one entry."),
        ("cell=3", "cell is 3, but it must be a mapping of keys to values."),
        (
            "data.partition.kind=foo",
            "data.partition.kind is foo, but it must be one of iid, dirichlet, column, size.",
        ),
        ("rounds", "--set is rounds, but it must be of the form key.subkey=value."),
        (
            "rounds.x.y=1",
            "rounds is {'x': {'y': 1}}, but it must be a whole number from 1 to 99999.",
        ),
    ],
)
def test_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(AirtuneError) as error:
        read_config(None, [setting])
    assert str(error.value) == sentence
    assert error.value.exit_code == 2


@pytest.mark.parametrize("text", ["10.0e6", "1e7", "10_000_000", "1.0E+07", "10000000"])
def test_numbers_are_yaml_1_2(text: str) -> None:
    assert read_config(None, [f"cell.bandwidth_hz={text}"]).cell.bandwidth_hz == 1e7
    assert read_config(None, ["training.learning_rate=1e-05"]).training.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("cell.carrier_hz=3.5", "3.5e9 for 3.5 GHz"),
        ("sflllm.server_flop_rate=10", "1e13 for 10 TFLOP/s"),
        ("sflllm.server_power_w=0.3", "in watts"),
        ("sflllm.main_total_power_dbm=200", "in dBm"),
    ],
)
def test_slips_of_units_are_refused_unless_they_are_meant(setting: str, hint: str) -> None:
    name = setting.partition("=")[0]
    section, key = name.split(".")
    with pytest.raises(InputError, match=rf"^{name} is .*{hint}.*list {key} in {section}\.unusual"):
        read_config(None, [setting])
    if section == "sflllm":
        read_config(None, [setting, f"sflllm.unusual_values=[{key}]"])
        with pytest.raises(InputError, match=r"sflllm\.unusual_values is solver"):
            read_config(None, [setting, "sflllm.unusual_values=[solver]"])


def test_settings_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("rounds: 3\ncell:\n  bandwidth_hz: 1e6\n  speed_m_s: 2\n")
    config = read_config(path, ["cell.bandwidth_hz=2e6", "seed=5"])
    assert (config.rounds, config.seed) == (3, 5)
    assert (config.cell.bandwidth_hz, config.cell.speed_m_s) == (2e6, 2)


def test_settings_leave_the_original_alone() -> None:
    values = {"cell": {"bandwidth_hz": 1.0}}
    assert with_settings(values, ["cell.bandwidth_hz=2"]) == {"cell": {"bandwidth_hz": 2}}
    assert values == {"cell": {"bandwidth_hz": 1.0}}


def test_commented_defaults_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(commented(default_experiment()))
    assert read_config(path) == default_experiment()
    uncommented = [
        line
        for line in commented(default_experiment()).splitlines()[2:]
        if "  # " not in line.rstrip("# ")
    ]
    assert uncommented == [], "every key says what it is"


def test_resolved_experiment_reads_back(tmp_path: Path) -> None:
    config = read_config(
        None, ["cell.tx_power_dbm=17.5", "adapter.target_modules=[q_proj, v_proj]", "deadline_s=9"]
    )
    path = tmp_path / "experiment.yaml"
    path.write_text(resolved_yaml(config))
    assert read_config(path) == config


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"rounds: [1", "is not YAML"),
        (b"- 1\n- 2\n", "is a list, but it must be a mapping"),
        (b"model: \xff\n", "is not UTF-8"),
        (b"rounds: 1\nrounds: 2\n", "duplicate key"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_bytes(content)
    with pytest.raises(AirtuneError, match=sentence):
        read_config(path)
    with pytest.raises(AirtuneError, match="a file that exists"):
        read_config(tmp_path / "missing.yaml")
    with pytest.raises(AirtuneError, match="a file, not a folder"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("threads=10000", "threads is 10000, but it must be a whole number from 1 to 256"),
        ("workers=10000", "workers is 10000, but it must be a whole number from 1 to 256"),
        (
            "clients.count=1e8",
            "clients.count is 10000+.0, .* a whole number from 1 to 100000",
        ),
        (
            "clients.count=1e9",
            "clients.count is 10000+.0, .* a whole number from 1 to 100000",
        ),
        (
            "training.local_steps=1e9",
            "training.local_steps is .* must be .* from 1 to 100000",
        ),
        (
            "training.batch_size=1e9",
            "training.batch_size is .* must be .* from 1 to 100000",
        ),
        ("training.batch_size=1e308", "training.batch_size is .* must be"),
        (
            "data.train_limit=1e12",
            "data.train_limit is .* must be .* to 10000000",
        ),
        ("data.test_limit=1e12", "data.test_limit is .* must be .* to 10000000"),
        (
            "jcpba.calibration_rows=1e9",
            "jcpba.calibration_rows is .* must be .* to 1000000",
        ),
        (
            "sflllm.main_subchannels=1e9",
            "sflllm.main_subchannels is .* must be .* from 1 to 100000",
        ),
    ],
)
def test_nothing_is_asked_for_without_end(setting: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_config(None, [setting])


def test_half_a_character_from_python() -> None:
    with pytest.raises(InputError, match=r"data is a text with '\\ud83d'"):
        check(ExperimentConfig, {"data": {"train": "rows\ud83d.jsonl"}})


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("rounds=true", "rounds is True, but it must be a whole number"),
        ("clients.count=false", "clients.count is False, but it must be a whole number"),
        ("deadline_s=true", "deadline_s is True, but it must be a number above 0"),
        ("training.learning_rate=true", "training.learning_rate is True, but it must be a number"),
        ("workers=yes", "workers is yes, but it must be a whole number"),
    ],
)
def test_truth_is_no_number(setting: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_config(None, [setting])
    assert read_config(None, ["training.keep_optimizer=false"]).training.keep_optimizer is False
