"""ferret end to end on the built-in model."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.round import run_round, start_round, tasks_of
from airtune.update.codec import coordinates
from airtune.update.held_model import held_model
from airtune.workload.payload import frame_bytes
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


SUMS = (
    "method=ferret",
    "ferret.downlink=coefficients",
    "ferret.shared=true",
    "ferret.directions=500",
)


@pytest.mark.parametrize(
    "changes",
    [
        ("rounds=4", "cohort.size=1", "clients.count=2"),
        ("rounds=3", "cohort.size=2", "cohort.dropout=0.3", "ferret.distribution=gaussian"),
        ("rounds=2", "ferret.directions=14000"),
    ],
)
def test_sums_down_are_planned_charged_and_resumed(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    run = Experiment.load(None, settings(*SUMS, *changes)).run(tmp_path / "whole")
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
    rounds = len(run.records)
    Experiment.load(None, settings(*SUMS, *changes, f"rounds={rounds - 1}")).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")


def test_clients_train_from_what_they_rebuild(tmp_path: Path) -> None:
    """From what each keeps and the message, to the server's bits; missed rounds are paid for."""
    changes = (*SUMS, "ferret.allocation=uniform", "clients.count=4", "cohort.size=1")
    world = build_world(read_config(None, settings(*changes)))
    context, state = world.context, world.unmeasured_start()
    last: dict[int, int] = {}
    most = 0
    for index in range(8):
        start = start_round(context, state)
        (task,) = tasks_of(context, state, start)
        kept, kept_round = held_model(task.carried)
        missed = index - last.get(task.client, 0)
        assert kept_round == last.get(task.client, 0)
        downlink = context.method.downlink
        made = downlink.received(task.broadcast, kept, kept_round, context.shapes)
        assert all(torch.equal(made[name], state.adapter[name]) for name in made)
        frame = {"heading": ("I32", [2 + missed * (2 + 8)]), "sums": ("F32", [500 * missed])}
        if not missed:
            del frame["sums"]
        assert len(task.broadcast) == frame_bytes(frame)
        outcome = run_round(context, state, start)
        record = outcome.record
        assert record["downlink_bits"] == 8 * len(task.broadcast)
        own = context.method.tuner.flops(  # type: ignore[union-attr]
            task.plan, context.costs.facts.step_shapes(task.client, index), context.costs.work
        )
        own += context.method.codec.encoding_flops(context.costs.shapes, task.plan)
        size = coordinates(context.costs.shapes)
        padded = 1 << (-(-size // 8) - 1).bit_length()
        rebuilt = missed * (8 * padded * (1 + np.log2(padded)) + size)
        assert record["clients"][0]["flops"] == pytest.approx(own + rebuilt, rel=1e-12)
        last[task.client], most, state = index, max(most, missed), outcome.state
    assert most >= 3, "a client should have missed rounds"


def test_sums_down_change_bytes_and_nothing_else(tmp_path: Path) -> None:
    """Beside the whole model down, with the same directions up; and from worker processes."""
    runs = {}
    for downlink in ("model", "coefficients"):
        changes = (*SUMS, f"ferret.downlink={downlink}", "rounds=3")
        runs[downlink] = Experiment.load(None, settings(*changes)).run(tmp_path / downlink)
    for one, other in zip(runs["model"].records, runs["coefficients"].records, strict=True):
        assert one["uplink_bits"] == other["uplink_bits"]
        assert one["downlink_bits"] > other["downlink_bits"]
    # From round 2 on the last bits of the model differ, and with them the directions.
    first = [runs[downlink].records[0]["test_loss"] for downlink in runs]
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    plain = [one for one in settings(*SUMS, "rounds=3") if not one.startswith("engine")]
    Experiment.load(None, [*plain, "engine=workers", "workers=2"]).run(tmp_path / "workers")
    here, there = (tmp_path / name / "rounds.jsonl" for name in ("coefficients", "workers"))
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("ferret.shared=false",), r"ferret\.shared is False"),
        (("codec={use: seeded, shared: true}",), r"codec"),
        (("aggregator=factor-mean",), r"aggregator is factor-mean"),
        (("server.optimizer=momentum",), r"server\.optimizer"),
        (("adapter.start=elsewhere",), r"adapter\.start"),
        (("adapter.personal=[*lora_B*]",), r"adapter\.personal"),
        (("ferret.directions=100000000",), r"ferret\.directions"),
        (("ferret.downlink_dtype=bf16",), r"ferret\.downlink_dtype"),
        (("pacing.kind=asynchronous",), r"pacing\.kind"),
    ],
)
def test_sums_down_refused_by_name(changes: tuple[str, ...], named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        Experiment.load(None, settings(*SUMS, *changes)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_machines_keep_no_model() -> None:
    class Nowhere:
        files: ClassVar[dict[str, Any]] = {}

        def join(self, *_: Any) -> Any:
            raise AssertionError("it is refused before clients join")

    with pytest.raises(InputError, match=r"ferret\.downlink: coefficients, .*other machines"):
        build_world(read_config(None, settings(*SUMS)), elsewhere=Nowhere())


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
