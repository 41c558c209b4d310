"""The experiments of a validation, as the command line states them."""

from pathlib import Path
from typing import Any

import pytest

from airtune.cli.validate import _arms
from airtune.errors import InputError

FILE = "clients: {count: 2}\nmethod: fedlora\n"


def arms(place: Path, settings: list[str], against: list[str]) -> list[tuple[str, Any]]:
    (place / "some.yaml").write_text(FILE)
    return _arms(place / "some.yaml", settings, against, 3)


def test_another_arm_has_everything_but_its_method_and_its_options_in_common(
    tmp_path: Path,
) -> None:
    settings = ["method=jcpba", "jcpba.pruning_budget=0.2", "clients.count=4"]
    (name, own), (other, against) = arms(tmp_path, settings, ["fedlora:bandwidth=equal"])
    assert (name, other) == ("jcpba", "fedlora:bandwidth=equal")
    assert own.value_of("jcpba.pruning_budget") == 0.2
    assert (against.method, against.value_of("fedlora.bandwidth")) == ("fedlora", "equal")
    assert [config.clients.count for config in (own, against)] == [4, 4]
    assert [config.rounds for config in (own, against)] == [3, 3]


def test_the_number_of_rounds_is_an_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--rounds"):
        arms(tmp_path, ["rounds=9"], [])


def test_an_arm_against_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--against"):
        arms(tmp_path, [], ["fedlora"])
