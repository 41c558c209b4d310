"""Comparison files: what they mean, and what is refused in one sentence."""

from pathlib import Path

import pytest

from airtune.comparison.definition import parse_methods, parse_shares, read_comparison
from airtune.errors import AirtuneError, InputError
from airtune.methods.fedlora.options import FedloraSection
from airtune.methods.jcpba.options import JcpbaSection

FILE = """
experiment: {rounds: 4, seed: 5, training: {local_steps: 2}, cell: {radius_m: 100}}
seeds: 3
target_loss: 0.7
arms:
  equal: {method: fedlora, fedlora: {bandwidth: equal}}
  long: {method: jcpba, rounds: 9, training: {batch_size: 4}, seeds: 1}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "compare.yaml"
    path.write_text(text)
    return path


def test_file(tmp_path: Path) -> None:
    read = read_comparison(write(tmp_path, FILE))
    assert read.target_loss == 0.7
    equal, long = read.arms
    assert list(equal.configs) == [5, 6, 7]
    assert list(long.configs) == [5]
    config = long.configs[5]
    assert (config.method, config.rounds, config.seed) == ("jcpba", 9, 5)
    # Sections are laid over each other key by key.
    assert (config.training.local_steps, config.training.batch_size) == (2, 4)
    assert equal.configs[7].section(FedloraSection).bandwidth == "equal"
    assert {c.cell.radius_m for arm in read.arms for c in arm.configs.values()} == {100}
    # Seed by seed, so that an interrupted comparison already compares.
    assert [(arm.name, seed) for arm, seed in read.runs] == [
        ("equal", 5),
        ("long", 5),
        ("equal", 6),
        ("equal", 7),
    ]


def test_command_line_replaces_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, FILE)
    read = read_comparison(path, ["long", "jcpba:solver=bcd"], ["rounds=2"], 2, 0.9)
    assert read.target_loss == 0.9
    assert [arm.name for arm in read.arms] == ["long", "jcpba:solver=bcd"]
    assert [list(arm.configs) for arm in read.arms] == [[5], [5, 6]]
    assert {c.rounds for arm in read.arms for c in arm.configs.values()} == {2}
    assert read.arms[1].configs[5].section(JcpbaSection).solver == "bcd"
    assert read.arms[1].folder == "jcpba-solver=bcd"


def test_one_kind_of_target(tmp_path: Path) -> None:
    path = write(tmp_path, FILE)
    read = read_comparison(path, target_share=0.85)
    assert (read.target_loss, read.target_share) == (None, 0.85)
    path = write(tmp_path, FILE.replace("target_loss: 0.7", "target_share: 0.85"))
    assert read_comparison(path).target_share == 0.85
    read = read_comparison(path, target_loss=0.9)
    assert (read.target_loss, read.target_share) == (0.9, 1.0)
    path = write(tmp_path, FILE + "target_share: 0.5\n")
    with pytest.raises(InputError, match=r"target_share is 0\.5.*one of the two"):
        read_comparison(path)


def test_several_shares(tmp_path: Path) -> None:
    path = write(tmp_path, FILE.replace("target_loss: 0.7", "target_share: [1, 0.85, 0.95, 0.85]"))
    read = read_comparison(path)
    assert (read.target_shares, read.target_share) == ((0.85, 0.95, 1.0), 1.0)
    read = read_comparison(path, target_share=[0.5, 0.25])
    assert (read.target_shares, read.target_share) == ((0.25, 0.5), 0.5)
    assert parse_shares("0.85, 0.95,1") == [0.85, 0.95, 1.0]
    assert parse_shares(None) is None


def test_experiment_file_with_methods(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("rounds: 3\n")
    text = "fedlora:bandwidth=equal+training.local_steps=3, jcpba"
    read = read_comparison(path, parse_methods(text))
    assert read.arms[0].configs[0].section(FedloraSection).bandwidth == "equal"
    assert read.arms[0].configs[0].training.local_steps == 3
    assert [arm.configs[0].rounds for arm in read.arms] == [3, 3]
    # A comparison may name the file instead.
    other = write(tmp_path, "experiment: experiment.yaml\nseeds: [4, 2]\narms: {a: {}, b: }")
    assert [list(arm.configs) for arm in read_comparison(other).arms] == [[4, 2], [4, 2]]
    assert read_comparison(None, ["fedlora"]).arms[0].configs[0].rounds == 48


def test_the_experiment_of_a_run_folder(tmp_path: Path) -> None:
    """It names its format, which is no key of an experiment."""
    path = tmp_path / "experiment.yaml"
    path.write_text("format: 2\nrounds: 3\ncell: {radius_m: 150}\n")
    (tmp_path / "cmp.yaml").write_text("experiment: experiment.yaml\narms: {a: {}, b: {rounds: 4}}")
    named = read_comparison(tmp_path / "cmp.yaml")
    assert [arm.configs[0].rounds for arm in named.arms] == [3, 4]
    arms = read_comparison(path, methods=["fedlora", "jcpba"]).arms
    assert [arm.configs[0].rounds for arm in arms] == [3, 3]
    path.write_text("format: 99\nrounds: 3\n")
    with pytest.raises(AirtuneError, match=r"format in .* is 99"):
        read_comparison(tmp_path / "cmp.yaml")


def test_a_part_is_replaced_as_a_whole(tmp_path: Path) -> None:
    text = (
        "experiment: {codec: {use: dense, dtype: bf16}}\n"
        "arms: {a: {codec: {use: 'my:Codec', share: 0.1}}, b: {}}"
    )
    arms = read_comparison(write(tmp_path, text)).arms
    assert arms[0].configs[0].codec == {"use": "my:Codec", "share": 0.1}
    assert arms[1].configs[0].codec == {"use": "dense", "dtype": "bf16"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "arms: {a: {cell: {radius_m: 50}}}",
            "arms.a.cell is {'radius_m': 50}, but it must be "
            "the same for every arm: put it under 'experiment'",
        ),
        ("arms: {a: {seed: 3}}", "arms.a.seed is 3, but it must be the same for every arm"),
        ("arms: {}", "arms is empty, but it must be at least one arm."),
        ("arms: [a]", "arms is ['a'], but it must be a mapping of keys to values."),
        ("arms: {a: 3}", "arms.a is 3, but it must be a mapping."),
        (
            "arms: {a: {rounds: 0}}",
            "arm a: rounds is 0, but it must be a whole number from 1",
        ),
        ("arms: {a: {methd: x}}", "arm a: methd is not a key that airtune knows: did you mean"),
        ("arms: {a: {seeds: 0}}", "arms.a.seeds is 0, but it must be a whole number"),
        ("arms: {'a/b': {}, 'a:b': {}}", "names that make different folders"),
        ("arms: {'..': {}}", "names that make different folders"),
        ("arms: {a: {}}\nseed: 2", "seed is not a key that airtune knows: did you mean 'seeds'?"),
        ("arms: {a: {}}\nseeds: none", "seeds is none, but it must be a number of seeds"),
        ("arms: {a: {}}\nseeds: []", "seeds is [], but it must be a number of seeds"),
        ("arms: {a: {}}\ntarget_share: 1.5", "target_share is 1.5"),
        ("arms: {a: {}}\ntarget_share: []", "target_share is"),
        ("arms: {a: {}}\ntarget_share: [0.5, 0]", "target_share"),
        ("arms: {a: {}}\ntarget_loss: -1", "target_loss is -1, but it must be a number above 0"),
        ("arms: {a: {}}\nexperiment: no.yaml", "no.yaml, but it must be a file that exists"),
        ("rounds: 3", "--methods is missing"),
    ],
)
def test_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(AirtuneError) as error:
        read_comparison(write(tmp_path, text))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (["jcpba:solver"], "name:key=value+key=value"),
        (["fedlora", "fedlora"], "a list without repetition"),
        (["jcpba:solver=fast"], "arm jcpba:solver=fast: jcpba.solver is fast"),
        (["jcpba:solvr=bcd"], "solvr is not a key that airtune knows"),
    ],
)
def test_methods_refused(methods: list[str], sentence: str) -> None:
    with pytest.raises(AirtuneError) as error:
        read_comparison(None, methods)
    assert sentence in str(error.value)
