"""fedkseed end to end on the built-in model: no backward pass, and scalars on the air."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.deploy.server import refuse_undeployable
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.round import run_round, start_round, tasks_of
from airtune.federated.server_step import remembered
from airtune.seeds import generator
from airtune.tuning.adapter import load_state
from airtune.tuning.directions import DRAW_FLOPS, Directions, SeededModel
from airtune.update.codec import coordinates, flatten, unflatten
from airtune.workload.payload import frame_bytes
from tests.cli.conftest import quick
from tests.cli.test_run import fingerprint

METHOD = ("method=fedkseed", "training.learning_rate=0.003", "training.local_steps=2")
FULL = (*METHOD, "adapter.kind=full", "training.learning_rate=0.0003", "fedkseed.seeds=9")


def settings(*changes: str) -> list[str]:
    return quick(*changes)[1::2]


def world_of(*changes: str) -> World:
    return build_world(read_config(None, settings(*changes)))


@pytest.mark.parametrize(
    "changes",
    [
        (*METHOD, "rounds=3", "cohort.size=2", "cohort.dropout=0.3"),
        (*METHOD, "rounds=2", "fedkseed.seeds=1", "fedkseed.bandwidth=equal"),
        (*FULL, "rounds=2"),
    ],
)
def test_planned_is_charged_and_resumed_to_the_same_bytes(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    run = Experiment.load(None, settings(*changes)).run(tmp_path / "whole")
    seeds = run.config.methods["fedkseed"].seeds  # type: ignore[attr-defined]
    whole = frame_bytes({"update": ("F32", [seeds])})
    pairs = frame_bytes({"update": ("F32", [2]), "index": ("I16", [2])})
    for record in run.records:
        assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
        assert {e["uplink_bits"] for e in record["clients"]} <= {8 * min(whole, pairs)}
        if record["measured"]["directions_moved"] is not None:
            assert 1 <= record["measured"]["directions_moved"] <= min(seeds, 6)
            assert record["measured"]["coefficient_norm"] > 0
    rounds = len(run.records)
    Experiment.load(None, settings(*changes, f"rounds={rounds - 1}")).run(tmp_path / "short")
    Experiment.resume(tmp_path / "short", more_rounds=1)
    assert fingerprint(tmp_path / "short") == fingerprint(tmp_path / "whole")


def records_of(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_every_engine_gives_the_same_bytes(tmp_path: Path) -> None:
    plain = [one for one in settings(*METHOD) if not one.startswith("engine")]
    for engine in ("sequential", "batched", "workers", "batched-workers"):
        own = ["workers=2"] if "workers" in engine else []
        run = Experiment.load(None, [*plain, *own, f"engine={engine}"]).run(tmp_path / engine)
        if "batched" in engine:
            assert run.config.engine == engine.replace("batched-", "").replace(
                "batched", "sequential"
            )
        assert records_of(tmp_path / engine) == records_of(tmp_path / "sequential")


def test_what_clients_start_from_is_made_of_the_message() -> None:
    """Rounds that a client misses cost it directions to draw, and no bits beside the sums."""
    world = world_of(*METHOD, "cohort.size=1", "rounds=8", "clients.count=4")
    context, state = world.context, world.unmeasured_start()
    size = coordinates(context.costs.shapes)
    first: dict[int, int] = {}
    changed: dict[int, int] = {}
    missed = 0
    for index in range(8):
        start = start_round(context, state)
        (task,) = tasks_of(context, state, start)
        fresh = SeededModel(Directions(0, 1024), dict(world.unmeasured_start().adapter))
        numbers = remembered(state.server).get("coefficients", torch.zeros(1024))
        made = context.method.downlink.decode(task.broadcast, context.shapes, task.plan)
        # Of nothing but the seed and the message, in another process.
        assert all(torch.equal(made[n], fresh.at(numbers)[n]) for n in made)
        assert all(torch.equal(made[name], state.adapter[name]) for name in made)
        sent = {"update": ("F32", [len(changed)]), "index": ("I16", [len(changed)])}
        assert len(task.broadcast) == frame_bytes(sent)
        lacking = [k for k, when in changed.items() if when >= first.get(task.client, 0)]
        missed = max(missed, index - first.get(task.client, index))
        outcome = run_round(context, state, start)
        record = outcome.record
        assert record["downlink_bits"] == 8 * len(task.broadcast)
        trained = context.method.tuner.flops(  # type: ignore[union-attr]
            task.plan, context.costs.facts.step_shapes(task.client, index), context.costs.work
        )
        (entry,) = record["clients"]
        rebuilt = (DRAW_FLOPS + 2) * len(lacking) * size
        assert entry["flops"] == pytest.approx(trained + rebuilt, rel=1e-12)
        first[task.client], state = index, outcome.state
        now = remembered(state.server)["coefficients"]
        for k in (now != numbers).nonzero().flatten().tolist():
            changed[k] = index
    assert missed >= 3, "the draw of cohorts should have left a client out for three rounds"


def test_one_client_and_one_seed_are_central_spsa(tmp_path: Path) -> None:
    """Step by step against plain code: one direction, two losses of the model, one step."""
    chosen = settings(
        "method=fedkseed",
        "clients.count=1",
        "fedkseed.seeds=1",
        "fedkseed.epsilon=0.01",
        "training.learning_rate=0.002",
        "training.local_steps=3",
        "rounds=2",
    )
    run = Experiment.load(None, chosen).run(tmp_path / "run")
    world = build_world(run.config)
    model = world.model
    shapes = world.context.costs.shapes
    w = flatten(dict(world.unmeasured_start().adapter)).double()
    draws = generator(run.config.seed, "candidate direction", 0)
    z = torch.from_numpy(draws.standard_normal(len(w), dtype=np.float32)).double()

    def loss(at: torch.Tensor, rows: Any) -> float:
        load_state(model, unflatten(at.float(), shapes))
        ids = torch.tensor(rows.token_ids)
        labels = ids.masked_fill(~torch.tensor(rows.label_mask, dtype=torch.bool), -100)
        with torch.no_grad():
            mask = torch.tensor(rows.attention_mask)
            return float(model(input_ids=ids, attention_mask=mask, labels=labels).loss)

    total = 0.0
    for index, record in enumerate(run.records):
        losses = []
        for rows in world.side.batches(0, index):
            above, below = loss(w + 0.01 * z, rows), loss(w - 0.01 * z, rows)
            step = -0.002 * (above - below) / 0.02
            w, total = w + step * z, total + step
            losses.append((above + below) / 2)
        assert record["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    kept = remembered(run.state.server)["coefficients"]
    assert abs(total) > 1e-4
    assert float(kept) == pytest.approx(total, rel=2e-3)
    assert np.abs(flatten(dict(run.state.adapter)).numpy() - w.numpy()).max() < 1e-5


def test_it_learns_and_takes_less_memory(tmp_path: Path) -> None:
    changes = ("adapter.kind=full", "training.learning_rate=0.0005", "rounds=3")
    more = ("training.local_steps=8", "data.test_limit=24", "method=fedkseed")
    run = Experiment.load(None, settings(*changes, *more)).run(tmp_path / "run")
    assert run.summary["final_test_loss"] < run.summary["start_test_loss"] - 0.1
    plain = world_of().context
    start = start_round(plain, world_of().unmeasured_start())
    entry = start.plan.clients[0]
    own = world_of(*METHOD).context
    needed = [each.costs.in_round(0).memory_bytes(entry) for each in (own, plain)]
    assert needed[0] < needed[1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("training.optimizer=adamw",), r"training\.optimizer is adamw, .*sgd with fedkseed"),
        (("training.max_grad_norm=1",), r"training\.max_grad_norm"),
        (("training.keep_optimizer=true",), r"training\.keep_optimizer"),
        (("model=elsewhere",), r"training\.learning_rate is None"),
        (("training.weight_decay=0.1",), r"training\.weight_decay"),
        (("training.gradient_checkpointing=true",), r"training\.gradient_checkpointing"),
        (("adapter.dropout=0.1",), r"adapter\.dropout"),
        (("server.optimizer=momentum",), r"server\.optimizer"),
        (("adapter.start=elsewhere",), r"adapter\.start"),
        (("adapter.personal=[*lora_B*]",), r"adapter\.personal"),
        (("pacing.kind=asynchronous",), r"pacing\.kind"),
        (("codec=int8",), r"codec is int8"),
        (("tuner=full",), r"tuner is full"),
        (("aggregator=factor-mean",), r"aggregator is factor-mean"),
        (("planner=sflllm",), r"planner is sflllm"),
        (("fedkseed.seeds=0",), r"fedkseed\.seeds"),
        (("adapter.kind=full", "dtype=bf16"), r"dtype"),
        (("tuner=full", "fedkseed.epsilon=0.1"), r"fedkseed\.epsilon"),
    ],
)
def test_refused_by_name(changes: tuple[str, ...], named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        Experiment.load(None, settings("method=fedkseed", *changes)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_quantised_base_carries_an_adapter(tmp_path: Path) -> None:
    run = Experiment.load(None, settings(*METHOD, "dtype=int8", "rounds=1")).run(tmp_path / "run")
    assert run.records[0]["test_loss"] > 0


def test_other_machines_can_do_it() -> None:
    refuse_undeployable(read_config(None, settings(*METHOD)))
