"""`check_part`: parts that keep their promises, and parts that break one each."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from airtune.cli.main import app
from airtune.errors import AirtuneError, InputError
from airtune.experiment import part_check
from airtune.experiment.part_check import Finding, PartCheck, check_part

PARTS = '''
import random
from dataclasses import replace

import torch

from airtune.federated.method import Planner
from airtune.round_plan import Plan
from airtune.tuning.tuner import FullTuner, Tuner
from airtune.update.codec import Codec, DenseCodec, flatten, pack, unflatten, unpack
from airtune.update.server import Aggregator
from airtune.wireless.channel_model import ChannelModel


class Equal(Planner):
    def plan(self, view, state):
        band = view.bandwidth_hz / len(view.cohort)
        clients = tuple(view.full_plan(i, band) for i in range(len(view.cohort)))
        latency_s = view.latency_s(clients)
        return Plan(clients, latency_s, None, status="feasible", message="equal")


class Restless(Equal):
    def plan(self, view, state):
        plan = super().plan(view, state)
        return replace(plan, message=f"equal, {random.random()}")


class Long(Codec):
    def encode(self, change, plan):
        return pack({"update": flatten(change)})

    def decode(self, payload, template, plan):
        return unflatten(unpack(payload)["update"], template)

    def payload_bits(self, shapes, plan):
        return 100


class Trusting(Codec):
    """It reads whatever it gets."""

    def encode(self, change, plan):
        return bytes(8)

    def decode(self, payload, template, plan):
        return {name: torch.zeros(shape) for name, shape in template.items()}

    def payload_bits(self, shapes, plan):
        return 64


class Sum(Aggregator):
    def aggregate(self, state, updates):
        return {
            name: tensor + sum(u.weight * u.change[name] for u in updates)
            for name, tensor in state.items()
        }


class Half(Tuner):
    def flops(self, plan, steps, work):
        return super().flops(plan, steps, work) / 2

    def tune(self, start, plan, context):
        return FullTuner().tune(start, plan, context)


class Careless(Half):
    def tune(self, start, plan, context):
        for tensor in start.values():
            tensor += 1e-3
        return FullTuner().tune(start, plan, context)


class Odd(ChannelModel):
    def gain(self, round_index, client, cell):
        return 1e-10 * random.random()
'''


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "checked_parts.py").write_text(PARTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def broken(name: str, *settings: str) -> list[str]:
    found = check_part(f"checked_parts:{name}", settings=settings)
    assert found.passed == (not any(finding.reason for finding in found.findings))
    return [finding.reason for finding in found.findings if not finding.kept]


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("Long", ["payload_bits answers 100, but encode made 1794688 bit."] * 2),
        pytest.param(
            "Odd",
            ["it answers other gains when it is asked again", "after a resume, rounds.jsonl"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_part_is_judged_by_its_promises(name: str, reasons: list[str]) -> None:
    found = broken(name)
    assert len(found) == len(reasons)
    assert all(told.startswith(words) for told, words in zip(found, reasons, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("Equal", []),
        ("Restless", ["plan answers otherwise for the same view and state."]),
        ("Trusting", ["decode takes 0 of 8 bytes without an error."]),
        ("Sum", ["aggregate answers otherwise where all clients have eight times as many rows."]),
        ("Half", ["flops states 9.49648e+08 FLOP of client 0, which computed 1.8993e+09."]),
        ("Careless", ["tune alters the adapter that it starts from.", "flops states"]),
    ],
)
def test_each_promise_can_be_broken(name: str, reasons: list[str]) -> None:
    found = broken(name)
    assert len(found) == len(reasons)
    assert all(told.startswith(words) for told, words in zip(found, reasons, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("airtune.update.codec:DenseCodec", ()),
        ("airtune.update.means:FactorMean", ()),
        ("airtune.update.products:FlexLora", ()),
        ("airtune.tuning.tuner:FullTuner", ()),
        ("airtune.federated.bandwidth_planner:BandwidthPlanner", ()),
        ("airtune.update.means:OverlapMean", ("method=jcpba", "jcpba.pruning_budget=0.4")),
    ],
)
def test_shipped_parts_keep_them(part: str, settings: tuple[str, ...]) -> None:
    found = check_part(part, settings=settings)
    assert [finding for finding in found.findings if not finding.kept] == []


def test_what_is_no_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"part is .*a subclass of one of Planner, Tuner"):
        check_part("pathlib:Path")
    with pytest.raises(InputError, match=r"of the form package\.module:Class"):
        check_part("checked_parts:")
    with pytest.raises(AirtuneError, match="share"):
        check_part("checked_parts:Equal", {"share": 2})
    # A class that does not fit beside the others is refused by name, not found broken.
    with pytest.raises(InputError, match=r"aggregator is \S+:FactorMean, but .*one that hon"):
        check_part(
            "airtune.update.means:FactorMean", settings=["method=jcpba", "jcpba.pruning_budget=0.4"]
        )


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = (Finding("bits are predicted", "payload_bits answers " + "1 " * 60), Finding("ok"))
    asked: list[Any] = []

    def checked(part: str, options: dict[str, Any], *, settings: list[str]) -> PartCheck:
        asked.append((part, options, settings))
        return PartCheck(part, "codec", "fedlora", findings[len(asked) // 3 :])

    monkeypatch.setattr(part_check, "check_part", checked)
    command = ["check-part", "my_parts:Mine", "--option", "share=0.5", "--set", "method=jcpba"]
    told = CliRunner().invoke(app, [*command, "--json"])
    assert asked == [("my_parts:Mine", {"share": 0.5}, ["method=jcpba"])]
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert found["findings"][1] == {"promise": "ok", "reason": ""}
    assert not found["passed"]
    monkeypatch.setattr("airtune.cli.text.page_width", lambda: 80)
    told = CliRunner().invoke(app, command)
    lines = told.stdout.splitlines()
    assert told.exit_code == 1
    assert lines[0] == "codec my_parts:Mine beside the parts of fedlora:"
    assert lines[-1] == "A promise is broken."
    assert max(map(len, lines)) <= 80
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0
    assert told.stdout.splitlines()[-1] == "Every promise is kept."
