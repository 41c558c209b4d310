"""Every shipped planner x tuner x codec x aggregator: refused in a sentence, or charged = done.

FLOPs are compared with FlopCounterMode around what each client really ran, bits with bytes.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from torch.utils.flop_counter import FlopCounterMode

from airtune.config.experiment import ExperimentConfig
from airtune.errors import AirtuneError, InputError
from airtune.experiment.composition import compose_method
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.backends.backend import Backend, ClientReport, ClientSide, ClientTask
from airtune.federated.context import RoundContext
from airtune.federated.method import Method
from airtune.federated.observation import planning_view
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.round import run_round
from airtune.methods.parts import known_parts
from airtune.methods.registry import shipped_methods
from airtune.tuning.base_model import model_location
from airtune.tuning.pruning.tuner import PrunedTuner
from airtune.tuning.tuner import CohortTuner
from airtune.update.codec import Shapes
from tests.models import small_model

PARTS = known_parts()
COMBINATIONS = list(itertools.product(*PARTS.values()))
REASONS = (
    "one that honours",
    "cannot work without it",
    "one that splits",
    "one that does not split",
    "untrained",
    "exactly as it is",
    "counts twice",
)


@dataclass
class Counted(Backend):
    """Runs one client after another, and counts what each did and sent."""

    side: ClientSide
    shapes: Shapes
    flops: dict[int, float] = field(default_factory=dict)
    payload_bits: dict[int, int] = field(default_factory=dict)
    broadcast_bits: int = 0
    known: list[ClientReport] = field(default_factory=list)
    """Reports of the same planner, tuner and codec beside another aggregator."""

    def run(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        self.broadcast_bits = 8 * len(tasks[0].broadcast)
        if not self.known:
            self.known = list(self._train(tasks))
        yield from self.known

    def _train(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        if isinstance(self.side.method.tuner, CohortTuner):
            yield from self._together(tasks)
            return
        for task in tasks:
            tuner = self.side.method.tuner
            if isinstance(tuner, PrunedTuner):
                # Clients of one process share their scores; on devices each makes its own.
                tuner.slicer._latest.clear()
            with FlopCounterMode(display=False) as counter:
                report = self.side.answer(task)
            # Codecs compute without torch, where the counter does not look.
            encoding = self.side.method.codec.encoding_flops(self.shapes, task.plan)
            self.flops[task.client] = float(counter.get_total_flops()) + encoding
            self.payload_bits[task.client] = 8 * len(report.payload)
            yield report

    def _together(self, tasks: Sequence[ClientTask]) -> Iterator[ClientReport]:
        with FlopCounterMode(display=False) as counter:
            reports = self.side.answer_together(tasks)
        self.flops[-1] = float(counter.get_total_flops())
        for report in reports:
            up = sum(step.uplink for step in report.cut)
            self.payload_bits[report.client] = 8 * len(report.payload) + up
            yield report


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-block Llama of random weights with the built-in model's tokenizer."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(model_location("builtin"))
    model = small_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Rows of one length: the main server pads the batches that it joins.
    rows = [{"prompt": "the old inn", "completion": "is by the river"}] * 24
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test = {"prompt": "the new inn", "completion": "is on the hill"}
    (folder / "test.jsonl").write_text(json.dumps(test) + "\n")
    return folder


def experiment(folder: Path, *changes: str) -> ExperimentConfig:
    return read_config(
        None,
        [
            f"model={folder}",
            f"data.train={folder / 'rows.jsonl'}",
            f"data.test={folder / 'test.jsonl'}",
            "data.score_rows=0",
            "clients.count=2",
            "training.local_steps=1",
            "training.batch_size=2",
            "data.max_tokens=64",
            "data.partition.kind=iid",
            "adapter.rank=4",
            "cell.path_loss=log_distance",
            "clients.devices=[pixel-9, laptop-cpu]",
            "threads=1",
            "engine=sequential",
            "jcpba.pruning_budget=0.4",
            *changes,
        ],
    )


@pytest.fixture(scope="module")
def worlds(model_folder: Path) -> dict[str, World]:
    """A world with a split system, and one without."""
    made = {
        name: build_world(experiment(model_folder, f"method={name}"))
        for name in ("fedlora", "sflllm")
    }
    for world in made.values():
        # The counter does not see the fused attention of a processor.
        world.model.get_base_model().set_attn_implementation("eager")
    return made


def with_method(world: World, method: Method) -> tuple[RoundContext, Counted]:
    """The world's context with another method, counted."""
    side = replace(world.side, method=method)
    backend = Counted(side, world.context.costs.shapes)
    costs = replace(
        world.context.costs, tuner=method.tuner, codec=method.codec, downlink=method.downlink
    )
    context = replace(world.context, method=method, backend=backend, costs=costs)
    settled = method.planner.settled(partial(planning_view, context))
    return replace(context, method=replace(method, planner=settled.planner)), backend


def start_of(world: World, context: RoundContext) -> ServerState:
    """The world's first state, for this method's planner."""
    first = context.method.planner.initial_state()
    return replace(world.unmeasured_start(), planner=first)


def base_of(planner: str) -> str:
    return "sflllm" if planner == "sflllm" else "fedlora"


def composed(world: World, names: Sequence[str]) -> Method:
    config = world.config.model_copy(update=dict(zip(PARTS, names, strict=True)))
    return compose_method(config, world.model, world.devices)


def accepted(worlds: dict[str, World]) -> dict[tuple[str, ...], Method]:
    """The combinations that are not refused; each refusal is one sentence with a reason."""
    fitting = {}
    for names in COMBINATIONS:
        try:
            fitting[names] = composed(worlds[base_of(names[0])], names)
        except InputError as refusal:
            text = str(refusal)
            assert text.startswith(("planner is", "tuner is", "codec is", "aggregator is")), text
            assert any(reason in text for reason in REASONS), text
            assert any(name in text for name in names), text
    return fitting


def check_round(context: RoundContext, backend: Counted, state: Any) -> Any:
    """One round: what was charged is what was done."""
    outcome = run_round(context, state)
    record = outcome.record
    assert record["clients"]
    if isinstance(context.method.tuner, CohortTuner):
        charged = sum(entry["flops"] for entry in record["clients"]) + record["server_flops"]
        assert charged == pytest.approx(backend.flops[-1], rel=1e-9)
    else:
        for entry in record["clients"]:
            assert entry["flops"] == pytest.approx(backend.flops[entry["client"]], rel=1e-12)
    for entry in record["clients"]:
        assert entry["uplink_bits"] == backend.payload_bits[entry["client"]]
    assert record["downlink_bits"] >= backend.broadcast_bits
    assert record["latency_s"] == pytest.approx(record["planned_latency_s"], rel=1e-9)
    bound = record.get("lower_bound_s")
    assert bound is None or bound <= record["latency_s"] * (1 + 1e-9)
    return outcome.state


def covering(names: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Some of these combinations: every pair of parts that stands in one of them, at least once."""
    chosen, seen = [], set[tuple[str, str, str]]()
    for combination in names:
        kinds = zip(PARTS, combination, strict=True)
        pairs = {
            (f"{one[0]} {other[0]}", one[1], other[1])
            for one, other in itertools.combinations(kinds, 2)
        }
        if not pairs <= seen:
            chosen.append(combination)
            seen |= pairs
    return chosen


def wrong_charges(worlds: dict[str, World], fitting: Mapping[tuple[str, ...], Method]) -> list[str]:
    """What was charged and not done, or done and not charged, in a round of each combination."""
    wrong = []
    known: dict[tuple[str, ...], tuple[RoundContext, Counted]] = {}
    for names, method in fitting.items():
        world = worlds[base_of(names[0])]
        # Clients do the same whatever the server makes of it.
        if names[:3] not in known:
            known[names[:3]] = with_method(world, method)
        context, backend = known[names[:3]]
        method = replace(method, planner=context.method.planner)
        context = replace(context, method=method)
        try:
            check_round(context, backend, start_of(world, context))
        except AssertionError as failed:
            wrong.append(f"{' x '.join(names)}: {failed}")
    return wrong


def test_every_combination_is_refused_or_fits(worlds: dict[str, World]) -> None:
    fitting = accepted(worlds)
    # Of 5 planners, 6 tuners, 10 codecs and 8 aggregators; a new part changes these on purpose.
    assert (len(COMBINATIONS), len(fitting)) == (2_400, 397)
    some = covering(fitting)
    assert {part for names in some for part in names} == {p for names in fitting for p in names}
    assert wrong_charges(worlds, {names: fitting[names] for names in some}) == []


@pytest.mark.slow
def test_every_combination_that_fits_is_charged_for_what_it_did(worlds: dict[str, World]) -> None:
    assert wrong_charges(worlds, accepted(worlds)) == []


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("jcpba", ("jcpba.importance=activations", "jcpba.calibration_rows=3")),
        ("jcpba", ("jcpba.importance=random", "jcpba.uplink_dtype=int8")),
        ("soft_tsfa", ("soft_tsfa.penalty=0.1",)),
        ("soft_tsfa", ("soft_tsfa.selection=global",)),
        ("ffa_lora", ()),
        ("hetlora", ()),
        ("hsfl", ()),
        ("hsfl", ("hsfl.client_halves=averaged",)),
        (
            "hsfl",
            ("hsfl.client_halves=averaged", "hsfl.cuts=common", "hsfl.aggregate_every=2"),
        ),
        ("epsl", ("epsl.cosine=off",)),
        ("epsl", ("epsl.cosine=off", "epsl.aggregation_ratio=1")),
        ("fedsl", ("fedsl.cut_dropout=0.3", "fedsl.aggregate_every=2")),
        ("fedsl", ("fedsl.pruning_rate=0.5", "fedsl.uplink_dtype=int8")),
    ],
)
def test_options_are_charged_too(method: str, changes: tuple[str, ...], model_folder: Path) -> None:
    """Two rounds of what the crossing above does not reach."""
    world = build_world(experiment(model_folder, f"method={method}", *changes))
    world.model.get_base_model().set_attn_implementation("eager")
    backend = Counted(world.side, world.context.costs.shapes)
    context, state = replace(world.context, backend=backend), world.unmeasured_start()
    for _ in range(2):
        backend.known = []
        state = check_round(context, backend, state)


UPLINK_FORMATS = [
    (name, dtype)
    for name, spec in shipped_methods().items()
    if spec.compose is not None and "uplink_dtype" in spec.options.model_fields
    for dtype in get_args(spec.options.model_fields["uplink_dtype"].annotation)
]
VARIANTS: dict[str, tuple[tuple[str, ...], ...]] = {
    # Clients that send fewer ranks have codecs of their own.
    "flora": ((), ("flora.rank_min=2",)),
    "sampled_lora": ((), ("sampled_lora.least_rank=1",)),
    # The cosine is measured at the main server beside the method's own work.
    "epsl": (("epsl.cosine=off",),),
}


@pytest.mark.parametrize(("method", "dtype"), UPLINK_FORMATS)
def test_every_number_format_is_charged_as_sent(
    method: str, dtype: str, model_folder: Path
) -> None:
    for changes in VARIANTS.get(method, ((),)):
        section = (f"method={method}", f"{method}.uplink_dtype={dtype}", *changes)
        world = build_world(experiment(model_folder, *section))
        world.model.get_base_model().set_attn_implementation("eager")
        backend = Counted(world.side, world.context.costs.shapes)
        check_round(replace(world.context, backend=backend), backend, world.unmeasured_start())


def test_refused_before_anything_is_written(tmp_path: Path, model_folder: Path) -> None:
    from airtune.experiment.experiment import Experiment

    for changes in (
        ("planner={use: jcpba, pruning_budget: 0.8}",),
        ("method=jcpba", "tuner=full"),
        ("method=jcpba", "codec={use: dense, dtype: bf16}"),
        ("method=jcpba", "aggregator=factor-mean"),
        ("method=hetlora", "tuner=full"),
        ("method=soft_tsfa", "codec=int8"),
        ("codec=factor",),
        ("method=ffa_lora", "tuner=full"),
        ("method=ffa_lora", "aggregator=svd-gauge"),
    ):
        with pytest.raises(AirtuneError):
            Experiment.of(experiment(model_folder, *changes)).run(tmp_path / "run")
        assert not (tmp_path / "run").exists()
