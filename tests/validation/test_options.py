"""What a validation refuses, and how clients compute."""

import os
import shutil
import sys
from typing import Any

import pytest

from airtune import Experiment
from airtune.deploy import links
from airtune.errors import AirtuneError, InputError
from airtune.validation.options import choose_computing, refuse_experiment, refuse_machine
from tests.cli import conftest

command = conftest.airtune
NO_QUOTA = "No control group with the controller cpu is mounted, so there are no CPU quotas."


@pytest.mark.parametrize(
    ("clients", "cores", "no_quota", "kind"),
    [
        (3, 4, None, "pinned"),
        (4, 4, None, "quota"),
        (4, 4, NO_QUOTA, "emulated"),
        (1, 1, NO_QUOTA, "emulated"),
    ],
)
def test_the_mode_is_the_best_that_there_is(
    clients: int, cores: int, no_quota: str | None, kind: str
) -> None:
    mode = choose_computing(None, None, clients, list(range(cores)), no_quota)
    assert mode.kind == kind
    assert ("EMULATED" in mode.words) == (kind == "emulated")


def test_pinned_clients_have_a_core_each_and_the_server_the_rest() -> None:
    mode = choose_computing("pinned", None, 2, [3, 5, 6, 8], None)
    assert mode.client_cores == (3, 5)
    assert mode.server_cores == (6, 8)


def test_the_quota_leaves_a_part_to_the_server() -> None:
    assert choose_computing("quota", None, 4, [0, 1], None).share == pytest.approx(0.35)
    assert choose_computing("quota", None, 1, [0, 1], None).share == 1.0
    assert choose_computing("quota", 0.2, 4, [0, 1], None).share == 0.2


@pytest.mark.parametrize(
    ("kind", "share", "clients", "no_quota", "sentence"),
    [
        ("fast", None, 1, None, "--computing is fast, but it must be one of pinned"),
        ("pinned", None, 2, None, "pinned with 2 clients on 2 cores"),
        ("quota", None, 2, NO_QUOTA, "No control group"),
        ("quota", 0.01, 2, None, "--share is 0.01"),
        ("quota", None, 60, None, "--share is 0.023"),
        ("emulated", 0.5, 2, None, "--share is 0.5, but it must be given beside"),
    ],
)
def test_a_mode_that_cannot_be_had_is_refused(
    kind: str, share: float | None, clients: int, no_quota: str | None, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        choose_computing(kind, share, clients, [0, 1], no_quota)


@pytest.mark.parametrize(
    "keys",
    [
        {"deadline_s": 3.0},
        {"cohort": {"dropout": 0.1}},
        {"cell": {"round_trip_s": 0.01}},
        {"deploy": {"pace": True}},
        {"deploy": {"rates": "measured"}},
        {"method": "sflllm", "sflllm": {"server_side": "copies"}},
        {"method": "sflllm", "sflllm": {"downlink": "free"}},
    ],
)
def test_what_a_real_round_would_not_do_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="in a validation"):
        refuse_experiment(Experiment(**keys).config)


def test_usual_experiments_are_not_refused() -> None:
    for method in ("fedlora", "jcpba", "soft_tsfa", "sflllm"):
        refuse_experiment(Experiment(method=method).config)


def test_other_systems_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(AirtuneError, match=r"^airtune validate needs Linux.*\.$"):
        refuse_machine()


def test_without_root_it_is_refused_in_a_sentence(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    links.unavailable.cache_clear()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda tool: f"/sbin/{tool}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    try:
        code, _, said = command("validate")
    finally:
        links.unavailable.cache_clear()
    assert code == 2
    assert said.startswith("airtune: airtune validate cannot make its links here: Network")
    assert "need root" in said
    assert len(said.strip().splitlines()) == 1
