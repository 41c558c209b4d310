"""One round by hand: who is charged what, who is late, what the planner may know."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from airtune.cost.latency import TransferModel
from airtune.errors import AirtuneError, DivergedError, InfeasibleError
from airtune.federated.backends.backend import ClientReport, ClientTask, Scripted
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.context import CohortSettings, RoundContext
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.round import run_round, start_round
from airtune.tuning.evaluate import Evaluation
from airtune.update.codec import Codec, DenseCodec
from airtune.update.server import Aggregator, ServerMomentum, norm
from tests.federated.fakes import (
    EqualPlanner,
    FakeChannel,
    FakeDevice,
    FakeState,
    add_client_number,
    make_context,
)

BITS = 8 * (8 + 64 + 8)
"""Two fp32 numbers in a safetensors frame: length, padded header, data."""


def with_transfer(context: RoundContext, share: float, trip_s: float) -> RoundContext:
    return replace(context, costs=replace(context.costs, transfer=TransferModel(share, trip_s)))


class Padded(Codec):
    """The dense codec with as many zeros behind as make the payload half as long again."""

    def encode(self, change: Any, plan: Any) -> bytes:
        return DenseCodec().encode(change, plan) + bytes(BITS // 16)

    def decode(self, payload: bytes, template: Any, plan: Any) -> Any:
        return DenseCodec().decode(payload[: BITS // 8], template, plan)

    def payload_bits(self, shapes: Any, plan: Any) -> int:
        return BITS * 3 // 2


def send_padded(task: ClientTask) -> ClientReport:
    report = add_client_number(task)
    return replace(report, payload=report.payload + bytes(BITS // 16))


def begin(planner: bool = True) -> ServerState:
    return ServerState({"x": torch.zeros(2)}, planner={"rounds": 0} if planner else {})


def test_charges_by_hand() -> None:
    outcome = run_round(make_context(), begin())
    record = outcome.record
    # Downlink: 300 Hz at the worst client's 2 bit/s/Hz. Computing: 10 FLOP at 10 FLOP/s.
    # Uplink: 100 Hz each at 1, 2, 4 bit/s/Hz.
    broadcast_s = BITS / 600.0
    for client, efficiency in enumerate((1.0, 2.0, 4.0)):
        entry = record["clients"][client]
        assert entry["uplink_bits"] == BITS
        assert entry["rate_bps"] == pytest.approx(100.0 * efficiency)
        assert entry["broadcast_s"] == pytest.approx(broadcast_s)
        assert entry["compute_s"] == pytest.approx(1.0)
        assert entry["upload_s"] == pytest.approx(BITS / (100.0 * efficiency))
    assert record["latency_s"] == pytest.approx(broadcast_s + 1.0 + BITS / 100.0)
    assert (record["straggler"], record["straggler_stage"]) == (0, "upload")
    assert record["uplink_bits"] == 3 * BITS
    assert record["downlink_bits"] == BITS
    assert record["train_loss"] == pytest.approx(2.0)
    # Client n reports a loss of 1 + n and moves both coordinates by n.
    assert [entry["train_loss"] for entry in record["clients"]] == [1.0, 2.0, 3.0]
    moved = [entry["update_norm"] for entry in record["clients"]]
    assert moved == pytest.approx([0.0, 2.0**0.5, 2.0 * 2.0**0.5])
    # Equal weights: the adapter moves by the mean client number.
    assert torch.equal(outcome.state.adapter["x"], torch.ones(2))
    assert record["test_loss"] == 2.0
    assert outcome.state.clock.time_s == pytest.approx(record["latency_s"])
    assert outcome.state.planner == {"rounds": 1}


def test_heads_and_round_trips_by_hand() -> None:
    """A quarter of heads and 50 ms a transfer: longer on the air, no round trip radiates."""
    record = run_round(with_transfer(make_context(), 0.25, 0.05), begin()).record
    for client, efficiency in enumerate((1.0, 2.0, 4.0)):
        entry, airtime_s = record["clients"][client], 1.25 * BITS / (100.0 * efficiency)
        # The records state what the encoder made and the rate on the air.
        assert entry["uplink_bits"] == BITS
        assert entry["rate_bps"] == pytest.approx(100.0 * efficiency)
        assert entry["broadcast_s"] == pytest.approx(0.05 + 1.25 * BITS / 600.0)
        assert entry["upload_s"] == pytest.approx(0.05 + airtime_s)
        assert entry["energy_j"] == pytest.approx(2.0 * 1.0 + 0.5 / 0.35 * airtime_s)
    assert record["downlink_bits"] == BITS
    assert record["latency_s"] == pytest.approx(2 * 0.05 + 1.25 * (BITS / 600.0 + BITS / 100.0) + 1)
    assert record["latency_s"] == record["planned_latency_s"]


def test_a_late_upload_begins_with_its_round_trip() -> None:
    """Of the last 3 s 0.05 pass before the first bit, and a fifth of the rest carries heads."""
    context = with_transfer(make_context(), 0.25, 0.05)
    ready_s = 0.05 + 1.25 * BITS / 600.0 + 1.0
    record = run_round(replace(context, deadline_s=ready_s + 3.0), begin()).record
    late = record["clients"][0]
    # It trained, but its update never arrived.
    assert (late.train_loss, late.update_norm) == (1.0, None)
    assert (late["outcome"], late["upload_s"]) == ("late", pytest.approx(3.0))
    assert late["uplink_bits"] == pytest.approx((3.0 - 0.05) * 100.0 / 1.25, abs=1)
    assert late["energy_j"] == pytest.approx(2.0 + 0.5 / 0.35 * (3.0 - 0.05))
    # Cut in the middle of the round trip: nothing was sent, nothing radiated.
    record = run_round(replace(context, deadline_s=ready_s + 0.03), begin()).record
    for entry in record["clients"]:
        assert (entry["uplink_bits"], entry["upload_s"]) == (0, pytest.approx(0.03))
        assert entry["energy_j"] == pytest.approx(2.0)


@pytest.mark.parametrize("bandwidth", ["equal", "minmax"])
def test_half_of_heads_is_a_payload_half_as_long_again(bandwidth: str) -> None:
    """Plans, times and energies agree to the last bit; only the recorded payload differs."""
    planner = BandwidthPlanner(bandwidth)
    context = make_context(planner=planner)
    headed = run_round(with_transfer(context, 0.5, 0.0), begin(planner=False)).record
    # 640 bits of update and 320 more are a payload of 960.
    method = replace(context.method, codec=Padded(), downlink=Padded())
    costs = replace(context.costs, codec=Padded(), downlink=Padded())
    context = replace(context, method=method, costs=costs, backend=Scripted(send_padded))
    padded = run_round(context, begin(planner=False)).record
    assert (headed["uplink_bits"], padded["uplink_bits"]) == (3 * BITS, 3 * BITS * 3 // 2)
    for key in ("latency_s", "planned_latency_s", "energy_j", "straggler"):
        assert headed[key] == padded[key]
    for key in ("bandwidth_hz", "broadcast_s", "compute_s", "upload_s", "energy_j"):
        assert [e[key] for e in headed["clients"]] == [e[key] for e in padded["clients"]]


def test_a_deadline_counts_round_trips_in() -> None:
    """A client that could send in time without the round trip is left out by the planner."""
    context = make_context((1.0, 4.0), planner=BandwidthPlanner("minmax"))
    alone_s = BITS / 600.0 + 1.0 + BITS / 300.0
    context = replace(context, deadline_s=alone_s + 0.01)
    assert start_round(context, begin(planner=False)).plan.skipped == {}
    late = with_transfer(context, 0.0, 0.02)
    assert list(start_round(late, begin(planner=False)).plan.skipped) == [0]


def test_rounds_add_up() -> None:
    context = make_context()
    first = run_round(context, begin())
    second = run_round(context, first.state)
    assert second.record["round"] == 2
    assert second.record["virtual_time_s"] == pytest.approx(2 * first.record["latency_s"])
    assert second.state.clock.energy_j == pytest.approx(2 * first.record["energy_j"])


def test_planner_sees_the_estimate_and_the_clock_the_truth() -> None:
    planner = EqualPlanner()
    context = make_context((8.0, 8.0), truth=(1.0, 2.0), planner=planner)
    record = run_round(context, begin()).record
    band = np.full(2, 100.0)
    assert planner.seen[0].uplink.rate(band) == pytest.approx([800.0, 800.0])
    assert [entry["rate_bps"] for entry in record["clients"]] == pytest.approx([150.0, 300.0])


def test_late_update_is_discarded_and_its_time_charged() -> None:
    whole = run_round(make_context(), begin()).record
    deadline_s = whole["latency_s"] - 0.5
    outcome = run_round(make_context(deadline_s=deadline_s), begin())
    record = outcome.record
    assert [entry["outcome"] for entry in record["clients"]] == ["late", "in_time", "in_time"]
    assert record["latency_s"] == deadline_s
    late = record["clients"][0]
    assert late["broadcast_s"] + late["compute_s"] + late["upload_s"] == pytest.approx(deadline_s)
    assert late["uplink_bits"] == pytest.approx(BITS - 50, abs=1)
    assert late["energy_j"] < whole["clients"][0]["energy_j"]
    assert torch.equal(outcome.state.adapter["x"], torch.full((2,), 1.5))


def test_everybody_late_leaves_the_adapter() -> None:
    outcome = run_round(make_context(deadline_s=1.2), begin())
    assert torch.equal(outcome.state.adapter["x"], torch.zeros(2))
    assert outcome.record["latency_s"] == 1.2


def test_late_while_computing_charges_only_the_part_done() -> None:
    record = run_round(make_context(deadline_s=BITS / 600.0 + 0.25), begin()).record
    for entry in record["clients"]:
        assert entry["compute_s"] == pytest.approx(0.25)
        assert (entry["upload_s"], entry["uplink_bits"]) == (0.0, 0)
        assert entry["flops"] == pytest.approx(2.5)


def test_no_signal_leaves_a_client_out_with_the_reason() -> None:
    """The planner believed in client 1; on the true channel nothing reaches it."""
    outcome = run_round(make_context((1.0, 1.0), truth=(1.0, 0.0)), begin())
    alone = run_round(make_context((1.0, 1.0)), begin()).record["clients"][0]
    record = outcome.record
    assert record["skipped"] == {"1": "has no signal in this round"}
    assert [entry["client"] for entry in record["clients"]] == [0]
    assert record["clients"][0] == alone
    assert record["latency_s"] == alone["broadcast_s"] + alone["compute_s"] + alone["upload_s"]
    assert torch.equal(outcome.state.adapter["x"], torch.zeros(2))


@dataclass(frozen=True)
class Steps:
    """Links that carry a bit a second a hertz from a least bandwidth on, and nothing below it."""

    least_hz: Any

    def rate(self, bandwidth_hz: Any) -> Any:
        return np.where(bandwidth_hz >= self.least_hz, bandwidth_hz, 0.0)

    def limit_bps(self) -> Any:
        return np.full(len(self.least_hz), np.inf)

    def select(self, index: Any) -> "Steps":
        return Steps(self.least_hz[index])


class Weak(FakeState):
    """On the true channel client 0 needs more than its share."""

    def uplink(self, tx_power_w: Any = None, clients: Any = None) -> Any:
        return Steps(np.array([200.0, 0.0, 0.0])[clients])


def test_a_share_that_carries_nothing_leaves_a_client_out() -> None:
    context = make_context()
    truth = Weak(np.array([1.0, 2.0, 4.0]))
    channel = FakeChannel(truth, FakeState(np.array([1.0, 2.0, 4.0])))
    record = run_round(replace(context, channel=channel), begin()).record  # type: ignore[arg-type]
    assert record["skipped"] == {"0": "has no uplink at its share of the band in this round"}
    assert [entry["client"] for entry in record["clients"]] == [1, 2]


@dataclass(frozen=True)
class Patient(EqualPlanner):
    """Waits for seven seconds where nobody can send."""

    def idle_s(self, view: Any) -> float:
        return 7.0


class Hopeless(EqualPlanner):
    def plan(self, view: Any, state: Any) -> Any:
        raise InfeasibleError("No plan serves this cohort.")


@pytest.mark.parametrize(
    ("changes", "seconds", "reason"),
    [
        ({}, 10.0, "has no signal in this round"),
        ({"sample_interval_s": 3.0}, 3.0, "has no signal in this round"),
        ({"planner": Patient()}, 7.0, "has no signal in this round"),
        ({"planner": Patient(), "deadline_s": 60.0}, 60.0, "has no signal in this round"),
        ({"planner": Hopeless(), "efficiency": (1.0, 2.0)}, 10.0, "No plan serves this cohort"),
        ({"efficiency": (1.0, 2.0), "truth": (0.0, 0.0)}, 10.0, "has no signal in this round"),
    ],
    ids=["interval", "other interval", "planner", "deadline", "infeasible", "truth"],
)
def test_a_round_in_which_nobody_can_send(
    changes: dict[str, Any], seconds: float, reason: str
) -> None:
    """It is charged its waiting time, recorded as skipped, and the next round follows."""
    context = make_context(**{"efficiency": (0.0, 0.0), **changes})
    before = begin()
    outcome = run_round(context, before)
    record, state = outcome.record, outcome.state
    assert (record["latency_s"], record["idle_s"]) == (seconds, seconds)
    assert record["skipped"] == {"0": reason, "1": reason}
    assert (record["clients"], record["straggler"], record["train_loss"]) == ([], None, None)
    assert (record["uplink_bits"], record["downlink_bits"], record["energy_j"]) == (0, 0, 0)
    assert torch.equal(state.adapter["x"], before.adapter["x"])
    assert (state.rounds_done, state.clock.time_s) == (1, seconds)
    assert state.planner == {"rounds": 1}
    assert not context.backend.asked  # type: ignore[attr-defined]


def test_no_client_means_the_planner_is_not_asked() -> None:
    planner = EqualPlanner()
    run_round(make_context((0.0, 0.0), planner=planner), begin())
    assert not planner.seen


def test_no_signal_with_a_deadline_costs_only_that_client() -> None:
    outcome = run_round(make_context((1.0, 1.0), truth=(1.0, 0.0), deadline_s=60.0), begin())
    assert [entry["outcome"] for entry in outcome.record["clients"]] == ["in_time", "late"]
    assert outcome.record["clients"][1]["broadcast_s"] == 60.0
    assert outcome.record["clients"][1]["flops"] == 0.0
    assert torch.equal(outcome.state.adapter["x"], torch.zeros(2))
    assert outcome.record["latency_s"] == 60.0


@pytest.mark.parametrize("deadline_s", [None, 60.0])
def test_silent_clients(deadline_s: float | None) -> None:
    cohort = CohortSettings(dropout=0.5)
    context = make_context((1.0,) * 8, cohort=cohort, deadline_s=deadline_s)
    start = start_round(context, begin())
    assert 0 < len(start.silent) < 8
    outcome = run_round(context, begin())
    silent = {e["client"] for e in outcome.record["clients"] if e["outcome"] == "silent"}
    assert silent == start.silent
    answered = set(range(8)) - silent
    assert outcome.state.adapter["x"][0] == pytest.approx(np.mean(list(answered)))
    waited = max(
        e["broadcast_s"] + e["compute_s"] + e["upload_s"] for e in outcome.record["clients"]
    )
    assert outcome.record["latency_s"] == pytest.approx(deadline_s or waited)


def test_order_of_answers_does_not_matter() -> None:
    class Backwards:
        def run(self, tasks: Any) -> Any:
            return (add_client_number(task) for task in reversed(tasks))

    context = make_context()
    plain = run_round(context, begin())
    turned = run_round(replace(context, backend=Backwards()), begin())  # type: ignore[arg-type]
    assert plain.record == turned.record
    assert torch.equal(plain.state.adapter["x"], turned.state.adapter["x"])


def test_what_a_client_carries_comes_back_next_round() -> None:
    def count(task: ClientTask) -> ClientReport:
        report = add_client_number(task)
        seen = task.carried.get("seen", torch.zeros(1))
        return ClientReport(report.client, report.payload, 1.0, 3, {"seen": seen + 1 + task.client})

    context = make_context(script=count)
    state = run_round(context, run_round(context, begin()).state).state
    assert [float(state.carried[c]["seen"]) for c in range(3)] == [2.0, 4.0, 6.0]


def test_charging_as_another_model_replaces_the_bits() -> None:
    context = make_context()
    other = replace(context.costs, shapes={"x": (1000,)}, as_other_model=True)
    record = run_round(replace(context, costs=other), begin()).record
    assert record["clients"][0]["uplink_bits"] > 32 * 1000
    assert record["downlink_bits"] > 32 * 1000


def test_the_server_optimiser_remembers_from_round_to_round() -> None:
    """By hand: the mean change of clients 0, 1, 2 is 1, so momentum 1/2 moves by 1 and 1.5."""
    context = make_context()
    method = replace(context.method, server=ServerMomentum(momentum=0.5))
    context = replace(context, method=method)
    first = run_round(context, begin()).state
    second = run_round(context, first).state
    assert torch.equal(first.adapter["x"], torch.full((2,), 1.0))
    assert torch.equal(second.adapter["x"], torch.full((2,), 2.5))
    assert torch.equal(second.server["mean/x"], torch.full((2,), 1.5))


def test_a_round_without_updates_leaves_the_server_optimiser_alone() -> None:
    context = make_context((1.0, 1.0), cohort=CohortSettings(dropout=0.999))
    context = replace(context, method=replace(context.method, server=ServerMomentum()))
    before = replace(begin(), server={"mean/x": torch.ones(2)})
    after = run_round(context, before).state
    assert torch.equal(after.adapter["x"], before.adapter["x"])
    assert after.server is before.server


def reply(task: ClientTask, loss: float = 1.0, value: float = 1.0) -> ClientReport:
    payload = DenseCodec().encode({"x": torch.full((2,), value)}, task.plan)
    return ClientReport(task.client, payload, loss, 3)


def nan_measure(exchange: Any) -> dict[str, Any]:
    return {"share": float("nan"), "each": [1.0, float("inf")], "none": None}


class Wrapped(Codec):
    """The dense codec, to derive from."""

    def encode(self, change: Any, plan: Any) -> bytes:
        return DenseCodec().encode(change, plan)

    def decode(self, payload: bytes, template: Any, plan: Any) -> Any:
        return DenseCodec().decode(payload, template, plan)

    def payload_bits(self, shapes: Any, plan: Any) -> int:
        return DenseCodec().payload_bits(shapes, plan)


class Reporting(Wrapped):
    def reported(self, payload: bytes, template: Any) -> list[float]:
        return [1.0, float("nan")]


class Overflowing(Aggregator):
    def aggregate(self, state: Any, updates: Any) -> dict[str, torch.Tensor]:
        return {"x": torch.full((2,), float("inf"))}


@pytest.mark.parametrize(
    ("script", "parts", "sentence"),
    [
        (lambda task: reply(task, value=float("nan")), {}, r"round 1: the update of client 0, as"),
        (reply, {"codec": Reporting()}, "round 1: what client 0 reports"),
        (reply, {"aggregator": Overflowing()}, "round 1: the aggregated adapter is not finite"),
        (
            lambda task: reply(task, value=1e38),
            {"server": ServerMomentum(learning_rate=1e30)},
            "round 1: the adapter after the server's step is not finite: lower server.learning",
        ),
    ],
    ids=["update", "report", "aggregator", "server"],
)
def test_what_is_not_finite_ends_the_round(script: Any, parts: Any, sentence: str) -> None:
    context = make_context(script=script)
    context = replace(context, method=replace(context.method, **parts))
    with pytest.raises(DivergedError, match=f"Training diverged in {sentence}"):
        run_round(context, begin())


def test_a_test_loss_that_is_none_ends_the_round() -> None:
    context = make_context(evaluate=lambda adapter: Evaluation(float("nan"), 2))
    with pytest.raises(DivergedError, match=r"round 1: the test loss after it is nan"):
        run_round(context, begin())


def test_a_measurement_that_is_no_number_is_recorded_as_none() -> None:
    context = make_context()
    context = replace(context, method=replace(context.method, measure=nan_measure))
    record = run_round(context, begin()).record
    assert record["measured"] == {"share": None, "each": [1.0, None], "none": None}


def test_a_record_that_json_cannot_hold_is_refused_by_field() -> None:
    devices = [FakeDevice(computing_power_w=float("inf"))] * 3
    with pytest.raises(AirtuneError, match=r"Round 1 cannot be recorded, for its energy_j is inf"):
        run_round(make_context(devices=devices), begin())


class Broken:
    """A part of each kind that raises, or answers nonsense."""

    class Planner(EqualPlanner):
        def plan(self, view: Any, state: Any) -> Any:
            raise KeyError("gain")

    class Answers(EqualPlanner):
        def plan(self, view: Any, state: Any) -> Any:
            return None

    class After(EqualPlanner):
        def after_round(self, state: Any, record: Any) -> Any:
            raise RuntimeError("forgot")

    class Waiting(EqualPlanner):
        def idle_s(self, view: Any) -> float:
            return float("nan")

    class Codec(Wrapped):
        def decode(self, payload: bytes, template: Any, plan: Any) -> Any:
            raise RuntimeError("bad bytes")

    class Names(Wrapped):
        def decode(self, payload: bytes, template: Any, plan: Any) -> Any:
            return {"y": torch.ones(2)}

    class Predicting(Wrapped):
        def payload_bits(self, shapes: Any, plan: Any) -> int:
            raise RuntimeError("no idea")

    class Adder(Aggregator):
        def aggregate(self, state: Any, updates: Any) -> Any:
            return 1 / 0

    @staticmethod
    def measure(exchange: Any) -> Any:
        raise IndexError("nothing")


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"planner": Broken.Planner()}, r"The planner .*Broken\.Planner in round 1 failed: KeyErr"),
        ({"planner": Broken.Answers()}, "in round 1 failed: TypeError: it answered a NoneType"),
        ({"planner": Broken.After()}, r"Broken\.After in round 1 failed: RuntimeError: forgot"),
        ({"codec": Broken.Codec()}, r"The codec .*Broken\.Codec in round 1 for client 0 failed"),
        ({"codec": Broken.Names()}, "does not have the names of the adapter's tensors"),
        ({"aggregator": Broken.Adder()}, r"The aggregator .* in round 1 failed: ZeroDivision"),
        ({"measure": Broken.measure}, r"The measure .*Broken\.measure in round 1 failed: IndexErr"),
    ],
)
def test_a_part_that_raises_is_named_with_round_and_client(parts: Any, sentence: str) -> None:
    context = make_context()
    context = replace(context, method=replace(context.method, **parts))
    with pytest.raises(AirtuneError, match=sentence) as caught:
        run_round(context, begin())
    assert "mend it, then run the command again, or `airtune resume` a " in str(caught.value)
    assert "Traceback" in caught.value.details


@pytest.mark.parametrize("name", ["codec", "downlink"])
def test_a_codec_that_cannot_predict_its_payload_is_named(name: str) -> None:
    context = make_context()
    broken: dict[str, Any] = {name: Broken.Predicting()}
    costs = replace(context.costs, **broken)
    client = " for client 0" if name == "codec" else ""
    with pytest.raises(AirtuneError, match=rf"codec .*Predicting in round 1{client} failed: Runt"):
        run_round(replace(context, costs=costs), begin())


def test_a_planner_that_waits_for_no_time_is_refused() -> None:
    with pytest.raises(AirtuneError, match="it answered nan s for a round without clients"):
        run_round(make_context((0.0, 0.0), planner=Broken.Waiting()), begin())


def test_the_learning_rate_is_that_of_the_round() -> None:
    context = make_context(learning_rate=lambda index: 0.5 ** (index + 1))
    first = run_round(context, begin())
    second = run_round(context, first.state)
    assert (first.record.learning_rate, second.record.learning_rate) == (0.5, 0.25)
    assert "learning_rate" not in run_round(make_context(), begin()).record


def test_the_norm_of_a_change_is_of_all_its_tensors() -> None:
    change = {"a": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "b": torch.full((3,), 4.0)}
    assert norm(change) == pytest.approx((25.0 + 48.0) ** 0.5, rel=1e-15)
    assert norm({name: x.half() * 1e4 for name, x in change.items()}) == pytest.approx(73e8**0.5)
    assert norm({}) == 0.0
