"""Problems that name a model and a cell: the numbers, recomputed from published ones by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import airtune
from airtune.cost.device import load_devices
from airtune.errors import InputError
from airtune.methods.plan import from_cell, load_problem_module
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import open_channel
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture
from airtune.workload.payload import update_bits
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import split_workload, workload
from tests.planning.cell_cases import CASES, CELL, FEDSLLM, JCPBA, SFLLLM, STILL, TSFA, changed

# Counted by torch on the real GPT-2 with adapters of rank 8 on all linear layers, one sequence of
# 128 tokens (docs/workload.md), and the parameters of that adapter.
GPT2_FLOPS = 32_530_169_856 + 32_981_581_824
GPT2_ADAPTER = 1_179_648
# 8 bytes of length, and {"update":{"dtype":"F32","shape":[1179648],"data_offsets":[0,4718592]}},
# 70 characters padded to 72.
FRAME_BITS = 8 * (8 + 72)


def still(case: dict[str, Any], **cell: Any) -> dict[str, Any]:
    """A case with one client at 250 m on 4 x 128 tokens."""
    section = {"cell": {**STILL, **cell}, "clients": {"count": 1, "devices": "jetson-orin-nano"}}
    training = {"batch_size": 4, "local_steps": 10}
    return {**case, **section, "training": training, "tokens": 128}


def hand_rate(tx_dbm: float, noise_dbm_hz: float) -> float:
    """Shannon's rate over 5 MHz at 250 m."""
    path_loss_db = 128.1 + 37.6 * math.log10(0.25)
    snr = 10 ** ((tx_dbm - path_loss_db - noise_dbm_hz) / 10) / 5e6
    return 5e6 * math.log2(1 + snr)


def test_jcpba_by_hand() -> None:
    """One client without pruning: broadcast + ten steps + upload, each from published figures."""
    planned = airtune.plan(
        still(JCPBA, implementation_margin_db=2, interference_margin_db=1), "none"
    )
    assert not isinstance(planned, list)
    bits = 32 * GPT2_ADAPTER + FRAME_BITS
    # The base station radiates 33 dBm and a client hears with 9 dB of noise figure; upwards it is
    # 23 dBm and 5 dB. Both see the margins of 2 and 1 dB.
    down, up = hand_rate(33, -174 + 9 + 3), hand_rate(23, -174 + 5 + 3)
    expected = bits / down + 10 * 4 * GPT2_FLOPS / 5.12e11 + bits / up
    assert planned.answer["latency_s"] == pytest.approx(expected, rel=1e-8)


HEADS = {"overhead_share": 0.25, "round_trip_s": 0.05}


def test_jcpba_with_heads_and_round_trips_by_hand() -> None:
    """Every bit takes a quarter longer, and the broadcast and the upload begin with 50 ms each."""
    planned = airtune.plan(still(JCPBA, **HEADS), "none")
    assert not isinstance(planned, list)
    bits = 1.25 * (32 * GPT2_ADAPTER + FRAME_BITS)
    computing = 10 * 4 * GPT2_FLOPS / 5.12e11
    expected = 0.1 + bits / hand_rate(33, -174 + 9) + computing + bits / hand_rate(23, -174 + 5)
    assert planned.answer["latency_s"] == pytest.approx(expected, rel=1e-8)
    assert "25 % above the payload" in " ".join(from_cell(still(JCPBA, **HEADS)).origin)


def test_fedsllm_with_heads_and_round_trips_by_hand() -> None:
    planned = airtune.plan(still(FEDSLLM, **HEADS))
    assert not isinstance(planned, list)
    eta = planned.answer["local_accuracy"]
    upload = 1.25 * (32 * GPT2_ADAPTER + FRAME_BITS) / hand_rate(23, -174 + 5)
    local = 2 * math.log2(1 / eta) * 10 * 4 * GPT2_FLOPS / 5.12e11
    total = 10 / (1 - eta) * (0.05 + local + upload)
    assert planned.answer["total_delay_s"] == pytest.approx(total, rel=1e-8)


def test_sflllm_with_heads_and_round_trips_by_hand() -> None:
    """The stages of the answer against those without: three transfers a step and round, no more."""
    case = changed(changed(SFLLLM, "rounds", {4: 40}), "split_points", [3])
    plain, headed = (
        airtune.plan(changed(case, "cell", {**CELL, **more})).answer  # type: ignore[union-attr]
        for more in ({}, HEADS)
    )
    for before, after in zip(plain["clients"], headed["clients"], strict=True):
        assert after["client_forward_s"] == before["client_forward_s"]
        assert after["client_backward_s"] == before["client_backward_s"]
        for stage in ("gradient_download_s", "adapter_download_s"):
            assert after[stage] == pytest.approx(0.05 + 1.25 * before[stage], rel=1e-9)
    slowest = [max(client[stage] for client in headed["clients"]) for stage in UPLOADS]
    before = [max(client[stage] for client in plain["clients"]) for stage in UPLOADS]
    # The adapter's link alone decides its upload; that of activations also waits for computing.
    assert slowest[1] == pytest.approx(0.05 + 1.25 * before[1], rel=1e-9)
    assert slowest[0] > 0.05 + before[0]
    free = changed(changed(case, "cell", {**CELL, **HEADS}), "downlink", "free")
    unpaid = airtune.plan(free).answer  # type: ignore[union-attr]
    assert {client["adapter_download_s"] for client in unpaid["clients"]} == {0.0}


UPLOADS = ("activation_upload_s", "adapter_upload_s")


def test_tsfa_with_heads_and_round_trips_by_hand() -> None:
    (plain,) = from_cell(still(TSFA)).numbers["clients"]
    (client,) = from_cell(still(TSFA, **HEADS)).numbers["clients"]
    broadcast = (32 * GPT2_ADAPTER + FRAME_BITS) / hand_rate(33, -174 + 9)
    added = 2 * 0.05 + 0.25 * broadcast
    assert client["compute_delay_s"] == pytest.approx(plain["compute_delay_s"] + added, rel=1e-8)
    for key in ("rank_payload_bits", "fixed_payload_bits"):
        assert client[key] == pytest.approx(1.25 * plain[key], rel=1e-12)


def test_jcpba_prunable_shares() -> None:
    """Three quarters of GPT-2's adapter, and its attention and MLP products, are prunable."""
    (client,) = from_cell(still(JCPBA)).numbers["clients"]
    payload, compute = client["payload_bits"], client["compute_delay_s"]
    assert payload["fixed"] + payload["prunable"] == 32 * GPT2_ADAPTER + FRAME_BITS
    assert payload["prunable"] == 24 * GPT2_ADAPTER
    # What stays at full pruning: the LM head forward and backward, and the halves of the adapters
    # that face the residual stream. A of q|k|v and up: 2 P r 768 forward; backward the same for A's
    # own gradient, and for x's where one is needed. B of the two outputs: 2 P r 768 forward, twice
    # that backward.
    rows = 4 * 128
    head = 2 * 2 * rows * 768 * 50257
    kept = 2 * rows * 8 * 768
    blocks = 12 * (2 * kept * 3 + 2 * kept * 3) - kept
    assert compute["fixed"] == pytest.approx(10 * (head + blocks) / 5.12e11, rel=1e-12)
    whole = 10 * 4 * GPT2_FLOPS / 5.12e11
    assert compute["fixed"] + compute["prunable"] == pytest.approx(whole, rel=1e-12)


def test_fedsllm_by_hand() -> None:
    problem = still(FEDSLLM)
    (client,) = from_cell(problem).numbers["clients"]
    assert client["compute_delay_s"] == pytest.approx(10 * 4 * GPT2_FLOPS / 5.12e11, rel=1e-12)
    assert client["payload_bits"] == 32 * GPT2_ADAPTER + FRAME_BITS
    half = changed(problem, "uplink_dtype", "bf16")
    (client,) = from_cell(half).numbers["clients"]
    # "BF16" is a character longer than "F32", and [0,2359296] as long as [0,4718592].
    assert client["payload_bits"] == 16 * GPT2_ADAPTER + FRAME_BITS


def test_fedsllm_takes_one_step_as_an_iteration_unless_told() -> None:
    alone = changed(still(FEDSLLM), "training", {"batch_size": 4})
    (client,) = from_cell(alone).numbers["clients"]
    assert client["compute_delay_s"] == pytest.approx(4 * GPT2_FLOPS / 5.12e11, rel=1e-12)


def test_tsfa_by_hand() -> None:
    (client,) = from_cell(still(TSFA)).numbers["clients"]
    broadcast = (32 * GPT2_ADAPTER + FRAME_BITS) / hand_rate(33, -174 + 9)
    compute = 10 * 4 * GPT2_FLOPS / 5.12e11
    assert client["compute_delay_s"] == pytest.approx(broadcast + compute, rel=1e-8)
    assert client["rank_payload_bits"] == 32 * GPT2_ADAPTER // 8
    energy = [k**-1.5 for k in range(1, 9)]
    assert client["rank_energy"] == pytest.approx([e / sum(energy) for e in energy], rel=1e-12)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_tsfa_payload_is_what_the_codec_sends(dtype: str) -> None:
    pytest.importorskip("torch")
    from airtune.round_plan import ClientPlan
    from airtune.update.rank_sparse import RankSparseCodec
    from airtune.workload.adapter_shape import adapter_tensors

    (client,) = from_cell(still(TSFA | {"uplink_dtype": dtype})).numbers["clients"]
    shapes = adapter_tensors(load_architecture("gpt2"), AdapterShape(8))
    for kept in (8, 3, 1):
        plan = ClientPlan(0, 0.0, 0.0, 8, sparsity=1 - kept / 8)
        sent = RankSparseCodec(dtype=dtype, report=True).payload_bits(shapes, plan)
        told = client["fixed_payload_bits"] + kept * client["rank_payload_bits"]
        # Fewer ranks have shorter offsets in the frame's header, which is padded to 8 bytes.
        assert told - sent in ((0,) if kept == 8 else (0, 64))


def test_sflllm_by_hand() -> None:
    """One candidate, one client, one subchannel: the total from the halves of a GPT-2 step."""
    problem = still(SFLLLM) | {
        "rounds": {8: 35},
        "split_points": [3],
        "main_server": {"flop_rate": 1e13, "subchannels": 1},
        "federated_server": {"subchannels": 1},
    }
    planned = airtune.plan(problem)
    assert not isinstance(planned, list)
    rank, rows, hidden, points = 8, 4 * 128, 768, 3
    # A block's matrices: 768 to 2304, 768 to 768, 768 to 3072 and back.
    pairs = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
    frozen, ends = sum(a * b for a, b in pairs), sum(a + b for a, b in pairs)
    attention = 2 * 2 * 4 * 128**2 * hidden
    forward = points * (2 * rows * (frozen + rank * ends) + attention)
    # Backward: all activations' gradients, but not those of the first block's input.
    backward = points * (
        2 * rows * (frozen + rank * (sum(a + 2 * b for a, b in pairs) + sum(a for a, _ in pairs)))
        + 2 * attention
    ) - 2 * rows * (768 * 2304 + rank * 768)
    speed, server = 5.12e11, 1e13
    up, down = hand_rate(23, -169), hand_rate(33, -165)
    cut = 32 * rows * hidden
    adapter = 8 * (8 + 72) + 32 * 3 * rank * ends
    step = (
        forward / speed
        + cut / up
        + (4 * GPT2_FLOPS - forward - backward) / server
        + cut / down
        + backward / speed
    )
    total = 35 * (10 * step + adapter / up + adapter / down)
    assert planned.answer["total_delay_s"] == pytest.approx(total, rel=1e-8)
    free = airtune.plan(problem | {"downlink": "free"})
    assert not isinstance(free, list)
    total -= 35 * (10 * cut / down + adapter / down)
    assert free.answer["total_delay_s"] == pytest.approx(total, rel=1e-8)


def test_sflllm_lists_every_split_point_and_rank() -> None:
    numbers = from_cell(SFLLLM).numbers
    pairs = {(row["split_point"], row["rank"]): row for row in numbers["candidates"]}
    assert set(pairs) == {(point, rank) for point in range(1, 12) for rank in (4, 8)}
    model, step = load_architecture("gpt2"), Step(1, 64)
    for (point, rank), row in pairs.items():
        client, server = split_workload(model, AdapterShape(rank), step, point)
        assert row["client_forward_flops"] == client.forward_flops
        assert row["server_backward_flops"] == server.backward_flops
        assert row["rounds"] == {4: 40, 8: 35}[rank]
        assert row["adapter_bits"] == update_bits(model, AdapterShape(rank), blocks=range(point))
    assert numbers["main_server"]["subchannel_bandwidth_hz"] == [10e6 / 6] * 6
    assert numbers["federated_server"]["total_power_w"] == pytest.approx(10**-0.5)
    seen = open_channel(CellSettings(**CELL), 3, seed=4).observe(0).estimate
    rates = [client["downlink_rate_bps"] for client in numbers["clients"]]
    assert rates == pytest.approx((seen.downlink().rate(np.full(3, 10e6)) / 3).tolist(), rel=1e-12)
    # Without a common cap all clients may radiate 23 dBm.
    assert numbers["main_server"]["total_power_w"] == pytest.approx(3 * 10**-0.7)


def test_split_points_that_do_not_fit_are_left_out_and_said() -> None:
    devices = ["galaxy-s25", "orange-pi-5"]
    large = SFLLLM | {
        "tokens": 1024,
        "training": {"batch_size": 8, "local_steps": 1},
        "rounds": {1: 60, 768: 40},
    }
    problem = from_cell(changed(large, "clients.devices", devices))
    points = sorted({row["split_point"] for row in problem.numbers["candidates"]})
    usable = min(load_devices()[name].usable_memory_bytes for name in devices)
    model, adapter, step = load_architecture("gpt2"), AdapterShape(768), Step(8, 1024)
    halves = [split_workload(model, adapter, step, point)[0] for point in range(1, 12)]
    needed = [half.memory_bytes for half in halves]
    assert points == [p for p, size in enumerate(needed, 1) if size <= usable]
    assert 0 < len(points) < 11
    assert f"above {points[-1]} are left out" in problem.notices[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"implementation_margin_db": 3, "interference_margin_db": 2, "tx_power_dbm": 17},
        {"csi_error_db": 4, "fading": "rician", "bandwidth_hz": 1e6},
    ],
)
def test_links_are_those_the_planner_sees(name: str, changes: dict[str, float]) -> None:
    problem = CASES[name] | {"cell": {**CELL, **changes}, "round": 5}
    numbers = from_cell(problem).numbers
    read = load_problem_module(name).read(numbers)
    cell = CellSettings(**problem["cell"])
    seen = open_channel(cell, 3, seed=4).observe(5).estimate.uplink()
    if name in ("hsfl", "fedsl"):
        rates = [client["uplink_rate_bps"] for client in numbers["clients"]]
        equal = seen.rate(np.full(3, cell.bandwidth_hz / 3))
        np.testing.assert_allclose(rates, equal, rtol=1e-9)
        return
    share = np.array([1e6, 2e5, 7e6])
    if name == "sflllm":
        link = read.training.main
        snr = link.power_max_w / link.noise_to_gain[:, 0]
        rate = share * np.log2(1 + snr / share)
    else:
        links = read.one_round.links if name == "tsfa" else read.links
        rate = links.rate(share)
    np.testing.assert_allclose(rate, seen.rate(share), rtol=1e-8)


def test_mean_takes_the_fading_out() -> None:
    gains = {}
    standing = {**CELL, "speed_m_s": 0, "fading_correlation": 0}
    for when in (0, 7, "mean"):
        numbers = from_cell(JCPBA | {"round": when, "cell": standing}).numbers
        gains[when] = [client["gain_db"] for client in numbers["clients"]]
    assert gains[0] != gains[7]
    cell = CellSettings(**{**standing, "fading": "none"})
    state = open_channel(cell, 3, seed=4).observe(0).truth
    np.testing.assert_allclose(gains["mean"], 10 * np.log10(state.gain), atol=1e-8)


def test_a_weak_modem_is_not_made_stronger(tmp_path: Path) -> None:
    profile = """
    weak: {training_flop_rate: 1e11, memory_bytes: 8e9, computing_power_w: 5, tx_power_dbm: 10,
           sources: {training_flop_rate: a, memory_bytes: a, computing_power_w: a, tx_power_dbm: a}}
    """
    (tmp_path / "own.yaml").write_text(profile)
    own = {"count": 2, "devices": ["weak", "pixel-9"], "device_file": str(tmp_path / "own.yaml")}
    numbers = from_cell(JCPBA | {"clients": own}).numbers
    assert [client["tx_power_dbm"] for client in numbers["clients"]] == [10, 23]
    assert [client["name"] for client in numbers["clients"]] == ["0 (weak)", "1 (pixel-9)"]


@pytest.mark.parametrize("name", ["jcpba", "tsfa"])
def test_weights_are_equal_or_by_examples(name: str) -> None:
    assert "weight" not in from_cell(CASES[name]).numbers["clients"][0]
    numbers = from_cell(changed(CASES[name], "clients.examples", [30, 10, 60])).numbers
    assert [client["weight"] for client in numbers["clients"]] == [30, 10, 60]


def test_memory_sets_the_floor_of_pruning() -> None:
    model, adapter = load_architecture("llama-3.2-1b"), AdapterShape(8)
    problem = JCPBA | {"model": "llama-3.2-1b", "pruning_budget": 0.6}
    problem = changed(problem, "clients.devices", ["jetson-orin-nano", "galaxy-s25"])
    clients = from_cell(problem).numbers["clients"]
    floor, none, _ = (client["pruning_rate_min"] for client in clients)
    assert none == 0
    usable = load_devices()["jetson-orin-nano"].usable_memory_bytes

    def needed(rate: float) -> float:
        return workload(model, adapter, Step(2, 64), rate, Precision("fp32", "adamw")).memory_bytes

    # 8,192 neurons: a rate lower by less than one of them removes one neuron less.
    assert needed(floor) <= usable < needed(floor - 0.9 / 8192)
    assert from_cell(problem | {"dtype": "bf16"}).numbers["clients"][0]["pruning_rate_min"] == 0
    planned = airtune.plan(problem)
    assert not isinstance(planned, list)
    assert planned.answer["clients"][0]["pruning_rate"] >= floor


def test_measured_throughput_becomes_an_efficiency(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("throughput_mbps\n20\n40\n60\n")
    trace = {"trace": str(tmp_path / "trace.csv"), "trace_bandwidth_hz": 20e6}
    problem = JCPBA | {"cell": {**trace, "bandwidth_hz": 5e6}, "clients": {"count": 1}, "round": 1}
    numbers = from_cell(problem).numbers
    assert numbers["clients"][0]["spectral_efficiency_bps_hz"] == 2.0
    assert "noise_psd_dbm_hz" not in numbers
    planned = airtune.plan(problem, "none")
    assert not isinstance(planned, list)
    assert planned.answer["clients"][0]["rate_bps"] == pytest.approx(1e7)
    with pytest.raises(InputError, match=r"cell\.trace is given.*left out for sflllm"):
        from_cell(SFLLLM | {"cell": problem["cell"]})


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("jcpba", "builtin"),
        ("tsfa", "builtin"),
        ("sflllm", "builtin"),
        ("fedsllm", "builtin"),
        ("jcpba", "llama-3.1-70b"),
        ("tsfa", "llama-3.1-70b"),
        ("sflllm", "llama-3.1-70b"),
        ("fedsllm", "llama-3.1-70b"),
        ("latency_energy", "builtin"),
        ("client_selection", "llama-3.1-70b"),
        ("latency_energy", "llama-3.1-70b"),
    ],
)
def test_from_a_million_to_seventy_billion(name: str, model: str, tmp_path: Path) -> None:
    """One source of figures for all: seconds follow the operations that torch counts."""
    profile = """
    rack: {training_flop_rate: 3e15, memory_bytes: 640e9, computing_power_w: 6000, tx_power_dbm: 23,
           idle_power_w: 900,
           sources: {training_flop_rate: a, memory_bytes: a, computing_power_w: a, tx_power_dbm: a,
                     idle_power_w: a}}
    """
    (tmp_path / "own.yaml").write_text(profile)
    racks = {"count": 2, "devices": "rack", "device_file": str(tmp_path / "own.yaml")}
    problem = CASES[name] | {"model": model, "dtype": "bf16", "clients": racks, "tokens": 128}
    if name == "tsfa":
        problem["latency_target_s"] = 1000.0
    planned = airtune.plan(problem)
    assert not isinstance(planned, list)
    assert planned.answer["status"] == "optimal"
    flops = workload(load_architecture(model), AdapterShape(8), Step(2, 128)).flops
    if model == "llama-3.1-70b":
        # docs/workload.md, one sequence of 128 tokens, as torch counts them.
        assert flops == 2 * (17_861_896_568_832 + 17_909_829_074_944)
    first = from_cell(problem).numbers["clients"][0]
    if name == "jcpba":
        compute = sum(first["compute_delay_s"].values())
        assert compute == pytest.approx(3 * flops / 3e15, rel=1e-12)
    elif name == "sflllm":
        rows = from_cell(problem).numbers["candidates"]
        assert len(rows) == 2 * (load_architecture(model).block_count - 1)
    else:
        assert first["compute_delay_s"] >= 3 * flops / 3e15 * (1 - 1e-12)


@given(
    name=st.sampled_from(["jcpba", "tsfa", "fedsllm", "latency_energy", "client_selection"]),
    count=st.integers(1, 12),
    steps=st.integers(1, 50),
    batch=st.integers(1, 16),
    tokens=st.integers(1, 1024),
    rank=st.integers(1, 64),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_any_numbers_make_a_problem(
    name: str, count: int, steps: int, batch: int, tokens: int, rank: int, seed: int
) -> None:
    """Readable, linear in the steps; a client's link does not depend on later clients."""

    def explicit(count: int, steps: int) -> list[dict[str, Any]]:
        training = {"batch_size": batch, "local_steps": steps, "optimizer": "sgd"}
        problem = CASES[name] | {
            "model": "builtin",
            "adapter": {"rank": rank},
            "clients": {"count": count, "devices": "macbook-pro-m1-max"},
            "training": training,
            "tokens": tokens,
            "seed": seed,
        }
        numbers = from_cell(problem).numbers
        load_problem_module(name).read(numbers)
        clients: list[dict[str, Any]] = numbers["clients"]
        return clients

    def seconds(client: dict[str, Any]) -> float:
        delay = client["compute_delay_s"]
        return sum(delay.values()) if isinstance(delay, dict) else delay

    few, more = explicit(count, steps), explicit(count + 2, steps)
    assert [client["gain_db"] for client in few] == [c["gain_db"] for c in more[:count]]
    once, twice = seconds(few[0]), seconds(explicit(count, 2 * steps)[0])
    flops = workload(load_architecture("builtin"), AdapterShape(rank), Step(batch, tokens)).flops
    rate = load_devices()["macbook-pro-m1-max"].training_flop_rate
    assert twice - once == pytest.approx(steps * flops / rate, rel=1e-6)
