"""ferret end to end on the built-in model."""

from pathlib import Path

import pytest

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.round import start_round
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint


def settings(*changes: str) -> list[str]:
    return quick("adapter.rank=4", *changes)[1::2]


@pytest.mark.parametrize("distribution", ["orthonormal", "gaussian"])
def test_planned_is_charged_and_resumed_to_the_same_bytes(
    distribution: str, tmp_path: Path
) -> None:
    method = ("method=ferret", f"ferret.distribution={distribution}", "ferret.directions=500")
    run = Experiment.load(None, settings(*method)).run(tmp_path / "whole")
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
        (bits,) = {entry["uplink_bits"] for entry in record["clients"]}
        assert 32 * 508 <= bits < 32 * 508 + 8 * 200, "coefficients, norms, and a header"
        assert 0 < record["measured"]["expected_error"] < 1
        assert record["measured"]["update_norm"] > 0
    Experiment.load(None, settings("rounds=1", *method)).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_as_many_directions_as_numbers_are_plain_averaging(kind: str, tmp_path: Path) -> None:
    same = quick(f"adapter.kind={kind}", "training.learning_rate=0.003")[1::2]
    ferret = "method=ferret", "ferret.directions=100000000"
    every = Experiment.load(None, [*same, *ferret]).run(tmp_path / "ferret")
    plain = Experiment.load(None, same).run(tmp_path / "fedlora")
    for one, other in zip(every.records, plain.records, strict=True):
        assert one["test_loss"] == other["test_loss"]
        assert one["train_loss"] == other["train_loss"]
        assert one["measured"]["expected_error"] == 0


def test_encoding_is_charged() -> None:
    clients = {}
    for distribution in ("orthonormal", "gaussian"):
        changes = ("method=ferret", f"ferret.distribution={distribution}")
        world = build_world(read_config(None, settings(*changes)))
        start = start_round(world.context, world.unmeasured_start())
        plan, codec = start.plan.clients[0], world.context.method.codec
        own = codec.encoding_flops(world.context.costs.shapes, plan)
        assert own > 0
        clients[distribution] = start.costs.compute_flops(plan) - own
    (whole,) = set(clients.values())
    world = build_world(read_config(None, settings()))
    start = start_round(world.context, world.unmeasured_start())
    assert start.costs.compute_flops(start.plan.clients[0]) == whole


def test_options_beside_another_codec_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ferret\.directions"):
        Experiment.load(None, settings("method=ferret", "codec=int8", "ferret.directions=9")).run(
            tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
