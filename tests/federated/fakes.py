"""A tiny world for rounds without a model: two numbers are the adapter, a script is the client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from airtune.federated.backends.backend import ClientReport, ClientTask, Scripted
from airtune.federated.charging.costs import CostModel
from airtune.federated.context import CohortSettings, RoundContext
from airtune.federated.method import Method, Planner
from airtune.federated.view import PlanningView
from airtune.round_plan import Plan
from airtune.tuning.evaluate import Evaluation
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec
from airtune.update.cut import CutShape
from airtune.update.means import FactorMean
from airtune.wireless.rate import FixedEfficiencyLinks
from airtune.workload.step import Step

SHAPES = {"x": (2,)}


@dataclass(frozen=True)
class FakeState:
    """Spectral efficiencies of uplink and downlink [bit/s/Hz], one a client."""

    efficiency: np.ndarray
    least_downlink: float = 0.0

    def uplink(self, tx_power_w: Any = None, clients: Any = None) -> FixedEfficiencyLinks:
        return FixedEfficiencyLinks(self._of(clients))

    def downlink(self, clients: Any = None) -> FixedEfficiencyLinks:
        return FixedEfficiencyLinks(np.maximum(2.0 * self._of(clients), self.least_downlink))

    def _of(self, clients: Any) -> np.ndarray:
        return self.efficiency if clients is None else self.efficiency[clients]

    def with_links_of(self, other: "FakeState", clients: Any) -> "FakeState":
        mixed = self.efficiency.copy()
        mixed[clients] = other.efficiency[clients]
        return replace(self, efficiency=mixed)


@dataclass(frozen=True)
class FakeChannel:
    """The planner sees `estimate`, the clock is charged with `truth`."""

    truth: FakeState
    estimate: FakeState
    samples: int | None = None

    def observe(self, round_index: int, clients: Any = None) -> "FakeChannel":
        return self


@dataclass(frozen=True)
class FakeDevice:
    name: str = "fake"
    usable_memory_bytes: float = 1e9
    training_flop_rate: float = 10.0
    computing_power_w: float = 2.0
    idle_power_w: float = 0.25


class FakeWork:
    """One FLOP a token; half of it can be pruned."""

    def step_flops(
        self, step: Step, pruning_rate: float = 0.0, rank: int | None = None, frozen_a: bool = False
    ) -> float:
        return float(step.positions) * (1.0 - 0.5 * pruning_rate)

    def step_bytes(
        self, step: Step, pruning_rate: float = 0.0, rank: int | None = None, frozen_a: bool = False
    ) -> int:
        return step.positions

    def affine_flops(self, step: Step) -> tuple[float, float]:
        return 0.5 * step.positions, 0.5 * step.positions

    def gram_flops(self) -> float:
        return 0.0

    def adapter_bytes(self) -> int:
        return 8

    def product_flops(self) -> float:
        return 0.0

    def scoring_flops(self, batches: Sequence[tuple[int, int, int]]) -> float:
        return 0.0

    def forward_bytes(self, rows: int, tokens: int) -> int:
        return rows * tokens

    def realisable_rates(self) -> list[float]:
        return [0.0, 0.25, 0.5, 0.75]

    def least_rate(self, step: Step, usable_bytes: float) -> float:
        return 0.0


class FakeFacts:
    """Two local steps of one row each."""

    def rows(self, client: int) -> int:
        return 2

    def longest_step(self, client: int) -> Step:
        return Step(1, 6)

    def step_shapes(self, client: int, round_index: int) -> list[Step]:
        return [Step(1, 4), Step(1, 6)]

    def cut_shapes(self, client: int, round_index: int) -> list[CutShape]:
        raise NotImplementedError("this model is not split")


@dataclass(frozen=True)
class EqualPlanner(Planner):
    """B/N each; remembers in its state how many rounds it saw."""

    seen: list[PlanningView] = field(default_factory=list)

    def initial_state(self) -> dict[str, Any]:
        return {"rounds": 0}

    def plan(self, view: PlanningView, state: Any) -> Plan:
        self.seen.append(view)
        share = view.bandwidth_hz / len(view.cohort)
        clients = tuple(view.full_plan(i, share) for i in range(len(view.cohort)))
        return Plan(clients, view.latency_s(clients), None, "feasible", "equal shares")

    def after_round(self, state: Any, record: Any) -> dict[str, Any]:
        return {"rounds": state["rounds"] + 1}


def add_client_number(task: ClientTask) -> ClientReport:
    """Every client moves each coordinate by its own number."""
    change = {"x": torch.full((2,), float(task.client))}
    payload = DenseCodec().encode(change, task.plan)
    return ClientReport(task.client, payload, train_loss=1.0 + task.client, label_tokens=3)


def make_context(
    efficiency: Sequence[float] = (1.0, 2.0, 4.0),
    *,
    truth: Sequence[float] | None = None,
    script: Callable[[ClientTask], ClientReport] = add_client_number,
    planner: Planner | None = None,
    cohort: CohortSettings | None = None,
    deadline_s: float | None = None,
    least_downlink: float = 0.0,
    **changes: Any,
) -> RoundContext:
    count = len(efficiency)
    codec = DenseCodec()
    devices = [FakeDevice() for _ in range(count)]
    estimate = FakeState(np.asarray(efficiency, dtype=float))
    real = np.asarray(truth if truth is not None else efficiency, dtype=float)
    actual = FakeState(real, least_downlink)
    values: dict[str, Any] = {
        "method": Method(
            "fake", planner or EqualPlanner(), FullTuner(), codec, FactorMean(), codec
        ),
        "backend": Scripted(script),
        "channel": FakeChannel(actual, estimate),
        "costs": CostModel(
            devices=devices,  # type: ignore[arg-type]
            facts=FakeFacts(),
            work=FakeWork(),  # type: ignore[arg-type]
            tuner=FullTuner(),
            codec=codec,
            downlink=codec,
            shapes=SHAPES,
        ),
        "devices": devices,
        "names": tuple(f"client {i}" for i in range(count)),
        "weights": np.ones(count),
        "tx_power_w": np.full(count, 0.5),
        "bandwidth_hz": 300.0,
        "cohort": cohort or CohortSettings(),
        "rank": 1,
        "shapes": SHAPES,
        "deadline_s": deadline_s,
        "seed": 3,
        "evaluate": lambda adapter: Evaluation(float(adapter["x"].sum()), 2),
    }
    return RoundContext(**{**values, **changes})
