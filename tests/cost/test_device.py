"""Device profiles: every figure sourced, derived figures re-derived, refusals by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from airtune.cost.device import (
    FIGURES,
    IDLE,
    UNSTATED,
    DeviceProfile,
    client_energy,
    find_device,
    known_idle_power_w,
    load_devices,
    power_at,
    rates_notice,
    refuse_small_memory,
)
from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture
from airtune.workload.step import Step
from airtune.workload.transformer import workload

PROFILE = """
my-board:
  title: My board
  kind: board
  training_flop_rate: 1.0e10
  memory_bytes: 4e9
  computing_power_w: 5
  tx_power_dbm: 20
  sources: {training_flop_rate: a, memory_bytes: b, computing_power_w: c, tx_power_dbm: d}
"""


@pytest.mark.parametrize("name", load_devices())
def test_every_figure_has_a_source_and_a_sane_size(name: str) -> None:
    device = load_devices()[name]
    assert set(device.sources) == {*FIGURES, IDLE}
    assert device.idle_power_w is not None
    assert 0 < device.idle_power_w < 0.4 * (device.computing_power_w or 0)
    assert all(len(text) > 20 for text in device.sources.values())
    assert 1e9 < device.training_flop_rate < 1e15
    assert 2**32 <= device.memory_bytes <= 512 * 2**30
    assert device.computing_power_w is not None
    assert 1 < device.computing_power_w <= 700
    assert device.software != UNSTATED
    assert device.rate_precision != UNSTATED
    assert device.rate_precision in device.software.lower() or "MLX" in device.software
    assert device.tx_power_w == pytest.approx(0.2, rel=0.01)


def test_there_are_phones_boards_and_laptops() -> None:
    kinds = [device.kind for device in load_devices().values()]
    assert min(kinds.count(kind) for kind in ("phone", "board", "laptop", "desktop")) >= 3
    assert kinds.count("server") >= 2
    assert sum(name.startswith("jetson") for name in load_devices()) >= 3


# Seconds of one LoRA step of Qwen3-1.7B on 128 tokens, as the cited benchmark gives them.
@pytest.mark.parametrize(
    ("name", "step_s"),
    [
        ("galaxy-s25", 21),
        ("pixel-9", 100),
        ("macbook-pro-m3-pro", 7.3),
        ("arc-a770", 4.3),
        ("radeon-7900-xtx", 2.7),
        ("rtx-4090-llama-cpp", 1.1),
    ],
)
def test_rates_derived_from_measured_steps(name: str, step_s: float) -> None:
    step = workload(load_architecture("qwen3-1.7b"), AdapterShape(8), Step(1, 128))
    assert load_devices()[name].training_flop_rate == pytest.approx(step.flops / step_s, rel=3e-3)


@pytest.mark.parametrize(
    ("name", "hpl_gflops"),
    [
        ("raspberry-pi-4", 11.889),
        ("raspberry-pi-5", 30.249),
        ("orange-pi-5", 53.333),
        ("laptop-cpu", 72.472),
        ("ampere-altra-max", 1265.5),
        ("ampereone-a192", 3026.9),
    ],
)
def test_rates_derived_from_linpack(name: str, hpl_gflops: float) -> None:
    derived = 0.7 * 2 * hpl_gflops * 1e9
    assert load_devices()[name].training_flop_rate == pytest.approx(derived, rel=5e-3)


def test_rate_derived_from_partial_fine_tuning() -> None:
    """Adapters on q and v of the last 4 of 32 blocks: backward stops there."""
    model = load_architecture("mistral-7b")
    step = workload(model, AdapterShape(8, ("q_proj", "v_proj")), Step(1, 100))
    backward = step.parts[-1].backward_flops + 4 * step.parts[-2].backward_flops
    rate = 250 * (step.forward_flops + backward) / 100
    assert load_devices()["macbook-pro-m1-max"].training_flop_rate == pytest.approx(rate, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "model", "tokens", "tokens_per_s"),
    [("rtx-4060", "qwen2.5-1.5b", 1024, 628.0), ("h100-80gb", "llama-3.1-70b", 4096, 608.42)],
)
def test_rates_derived_from_measured_throughput(
    name: str, model: str, tokens: int, tokens_per_s: float
) -> None:
    step = workload(load_architecture(model), AdapterShape(8), Step(1, tokens))
    rate = tokens_per_s * step.flops / tokens
    assert load_devices()[name].training_flop_rate == pytest.approx(rate, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("jetson-orin-nano", 1024 * 2 * 0.625e9),
        ("jetson-orin-nano-super", 1024 * 2 * 1.02e9),
        ("jetson-agx-orin", 2048 * 2 * 1.3e9),
        ("rtx-4090", 165.2e12),
        ("a100-40gb", 312e12),
        ("l4", 242e12 / 2),
        ("l40s", 362.05e12),
        ("rtx-4060-laptop", 3072 * 2 * 2.37e9),
    ],
)
def test_rates_derived_from_a_peak(name: str, peak: float) -> None:
    device = load_devices()[name]
    assert device.training_flop_rate == pytest.approx(0.4 * peak, rel=5e-3)
    assert device.software.startswith("any, derived")


def test_one_software_is_comparable_and_the_list_says_which() -> None:
    """What is measured with the same software orders as the hardware does."""
    devices = load_devices()
    names = ("pixel-9", "galaxy-s25", "macbook-pro-m3-pro", "arc-a770", "rtx-4090-llama-cpp")
    assert len({devices[name].software for name in names}) == 1
    rates = [devices[name].training_flop_rate for name in names]
    assert rates == sorted(rates)
    assert devices["raspberry-pi-4"].software != devices["pixel-9"].software


def test_rates_of_another_base_are_said() -> None:
    """Each format once with its devices, each device once; nothing where all are of this one."""
    devices = load_devices()
    some = [devices[n] for n in ("pixel-9", "laptop-cpu", "galaxy-s25", "laptop-cpu", "a100-40gb")]
    assert rates_notice(some, "bf16") == (
        "Training rates are charged for bf16 as the device profiles state them, which were "
        "measured with a base in q8_0 (pixel-9, galaxy-s25) and in fp32 (laptop-cpu)."
    )
    assert rates_notice([devices["a100-40gb"]], "bf16") == ""
    assert "not stated (" in rates_notice([replace(some[0], rate_precision=UNSTATED)], "nf4")


def test_a_card_has_its_memory_to_itself() -> None:
    card = load_devices()["rtx-4060"]
    assert card.usable_memory_bytes == int(0.9 * card.memory_bytes)


# Slips of units: GFLOP/s, GB, mW and mW again.
SLIPS = [
    ("1.0e10", "40", "training_flop_rate", "FLOP/s"),
    ("4e9", "8", "memory_bytes", "8e9 for 8 GB"),
    ("computing_power_w: 5", "computing_power_w: 7000", "computing_power_w", "in watts"),
    ("computing_power_w: 5", "computing_power_w: 0.007", "computing_power_w", "in watts"),
    ("tx_power_dbm: 20", "tx_power_dbm: 200", "tx_power_dbm", "in dBm"),
]


@pytest.mark.parametrize(("old", "new", "figure", "words"), SLIPS)
def test_a_slip_of_units_is_refused_unless_it_is_meant(
    tmp_path: Path, old: str, new: str, figure: str, words: str
) -> None:
    path = tmp_path / "devices.yaml"
    assert old in PROFILE
    path.write_text(PROFILE.replace(old, new))
    message = f"^{figure} of my-board in .*{words}.*list {figure} in unusual_values of my-board"
    with pytest.raises(InputError, match=message):
        load_devices(path)
    path.write_text(path.read_text() + f"  unusual_values: [{figure}]\n")
    assert load_devices(path)["my-board"].mapping()["unusual_values"] == [figure]
    path.write_text(PROFILE + "  unusual_values: [title]\n")
    with pytest.raises(InputError, match=r"unusual_values of my-board .* is title"):
        load_devices(path)


def test_own_profiles_come_on_top(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(PROFILE + PROFILE.replace("my-board", "pixel-9"))
    devices = load_devices(path)
    assert devices["my-board"].memory_bytes == 4_000_000_000
    assert devices["pixel-9"].title == "My board"
    assert load_devices()["pixel-9"].title != "My board"


def test_profiles_survive_a_round_trip(tmp_path: Path) -> None:
    import json

    device = load_devices()["jetson-nano"]
    path = tmp_path / "own.yaml"
    # JSON is YAML.
    path.write_text(json.dumps({"copy": device.mapping()}))
    assert load_devices(path)["copy"].mapping() == device.mapping()


def test_power_may_be_unknown(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(PROFILE.replace("computing_power_w: 5", "computing_power_w: null"))
    assert load_devices(path)["my-board"].computing_power_w is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1.0e10", "-1", "training_flop_rate of my-board in .* is -1"),
        ("1.0e10", "fast", "training_flop_rate of my-board .* is fast"),
        ("1.0e10", ".inf", "a number above 0"),
        ("4e9", "true", "memory_bytes of my-board .* is True"),
        ("tx_power_dbm: 20", "tx_power: 20", "did you mean 'tx_power_dbm'?"),
        ("tx_power_dbm: 20\n", "title: x\n", "not YAML"),
        ("memory_bytes: b, ", "", "without memory_bytes"),
        ("kind: board", "kind: toaster", "one of phone, board, laptop, desktop, server, other"),
        ("sources: {", "sources: [{", "not YAML"),
    ],
)
def test_bad_profiles_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "devices.yaml"
    assert old in PROFILE
    path.write_text(PROFILE.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_devices(path)


def test_profiles_that_are_no_mappings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("my-board: 3")
    with pytest.raises(InputError, match=r"my-board in .* is 3, but it must be a mapping"):
        load_devices(path)
    with pytest.raises(InputError, match=r"clients\.device_file"):
        load_devices(tmp_path / "missing.yaml")


def test_unknown_names_get_a_suggestion() -> None:
    assert find_device("pixel-9", load_devices()).name == "pixel-9"
    with pytest.raises(InputError, match="did you mean 'raspberry-pi-5'"):
        find_device("rasberry-pi-5", load_devices())
    with pytest.raises(InputError, match="airtune device list"):
        find_device("zx81", load_devices())


def test_memory_that_does_not_suffice_is_refused_by_name() -> None:
    device: DeviceProfile = load_devices()["jetson-nano"]
    usable = device.usable_memory_bytes
    assert usable == pytest.approx(0.65 * 2**32, abs=1)
    refuse_small_memory("client 3", device, usable)
    with pytest.raises(InputError) as caught:
        refuse_small_memory("client 3", device, 6e9)
    for part in ("client 3", "jetson-nano", "2.79 GB", "4.29 GB", "6 GB", "batch_size"):
        assert part in str(caught.value)


def test_power_follows_the_cubic_law_from_idle_to_full() -> None:
    device = replace(load_devices()["galaxy-s25"], computing_power_w=7.0, idle_power_w=1.0)
    assert power_at(device, 1.0) == 7.0
    assert power_at(device, 0.5) == pytest.approx(1.0 + 6.0 / 8)
    assert power_at(device, 1e-9) == pytest.approx(1.0)
    # Twice the time at 1.75 W, and 0.35 W consumed for 0.1225 W radiated.
    spent = client_energy(device, 20.0, 3.0, 0.1225, speed=0.5)
    assert spent == pytest.approx(20.0 * 1.75 + 3.0 * 0.35)


def test_idle_power_is_only_asked_for_where_a_device_is_to_be_slower(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(PROFILE)
    device = load_devices(tmp_path / "own.yaml")["my-board"]
    assert device.idle_power_w is None
    assert "idle_power_w" not in device.mapping()
    assert power_at(device, 1.0) == 5.0
    with pytest.raises(InputError, match=r"idle_power_w of my-board is not known.*given where"):
        power_at(device, 0.9)
    with pytest.raises(InputError, match="idle_power_w of my-board"):
        known_idle_power_w(device)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tx_power_dbm: 20", "tx_power_dbm: 20\n  idle_power_w: 1", "without idle_power_w"),
        ("tx_power_dbm: 20", "tx_power_dbm: 20\n  idle_power_w: 6", "at most computing_power_w"),
        ("tx_power_dbm: 20", "tx_power_dbm: 20\n  idle_power_w: -1", "idle_power_w"),
    ],
)
def test_an_idle_power_has_a_source_and_is_below_the_full_one(
    old: str, new: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(PROFILE.replace(old, new))
    with pytest.raises(InputError, match=words):
        load_devices(tmp_path / "own.yaml")
