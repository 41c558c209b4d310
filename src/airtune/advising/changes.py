"""Changes of an experiment that may shorten a round or make it fit: what each one sets, and why.

A change is `--set` values alone. Nothing here says what it does to the latency; that is computed by
planning and charging the changed experiment.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile, load_devices
from airtune.methods.registry import find_method
from airtune.quantities import format_quantity

MORE_BANDWIDTH_HZ = 1e6
MORE_POWER_DB = 3.0
FEWER = "the rounds to a target loss may be more, which is not counted"


@dataclass(frozen=True)
class Change:
    """What is changed in words, and ways to set it, of which the first that a run accepts counts.

    `if_nothing` is the reason where it leaves the latency as it is.
    A change `helps` rounds to be `faster`, a model to `fit` devices, or `both`: what is feasible is
    only made faster, what is not is only made to fit.
    """

    what: str
    ways: Sequence[Sequence[str]]
    note: str = ""
    if_nothing: str = "no effect on the latency"
    helps: Literal["faster", "fit", "both"] = "faster"


def changes_of(config: ExperimentConfig) -> Iterator[Change]:
    """What may help the experiment's method."""
    for make in (
        _bandwidth,
        _power,
        _faster_device,
        _fewer_bits_up,
        _fewer_bits_down,
        _lower_rank,
        _fewer_steps,
        _larger_device,
        _smaller_base,
        _less_memory,
    ):
        yield from make(config)


def _bandwidth(config: ExperimentConfig) -> Iterator[Change]:
    wider = config.cell.bandwidth_hz + MORE_BANDWIDTH_HZ
    words = f"1 MHz more bandwidth ({format_quantity(wider, 'Hz')})"
    yield Change(words, [[f"cell.bandwidth_hz={wider:.12g}"]])


def _power(config: ExperimentConfig) -> Iterator[Change]:
    power = config.cell.tx_power_dbm + MORE_POWER_DB
    words = f"3 dB more transmit power of the clients ({power:.12g} dBm)"
    nothing = "no effect: the transmit power of every device's profile is the lower limit"
    yield Change(words, [[f"cell.tx_power_dbm={power:.12g}"]], if_nothing=nothing)


def _profiles(config: ExperimentConfig) -> dict[str, DeviceProfile]:
    own = config.clients.device_file
    return load_devices(Path(own) if own else None)


def _replaced(config: ExperimentConfig, old: str, new: str) -> list[str]:
    names = [new if name == old else name for name in config.clients.devices]
    return [f"clients.devices=[{', '.join(names)}]"]


def _next(
    config: ExperimentConfig, figure: Callable[[DeviceProfile], float]
) -> tuple[str, str] | None:
    """The profile with the least of a figure, and the one with the next more of it."""
    known = _profiles(config)
    least = min((known[name] for name in config.clients.devices), key=figure)
    more = [device for device in known.values() if figure(device) > figure(least)]
    if not more:
        return None
    return least.name, min(more, key=lambda device: (figure(device), device.name)).name


def _faster_device(config: ExperimentConfig) -> Iterator[Change]:
    pair = _next(config, lambda device: device.training_flop_rate)
    if pair is not None:
        words = f"the next faster device, {pair[1]}, in place of every {pair[0]}"
        yield Change(words, [_replaced(config, *pair)])


def _larger_device(config: ExperimentConfig) -> Iterator[Change]:
    pair = _next(config, lambda device: device.usable_memory_bytes)
    if pair is not None:
        words = f"the next larger device, {pair[1]}, in place of every {pair[0]}"
        yield Change(words, [_replaced(config, *pair)], helps="fit")


def _allows(config: ExperimentConfig, key: str) -> bool:
    """Whether the method's section has this key."""
    section = config.methods.get(config.method)
    return section is not None and key in type(section).model_fields


def _fewer_bits_up(config: ExperimentConfig) -> Iterator[Change]:
    method = config.method
    ways = [[f"{method}.uplink_dtype=int8"]] if _allows(config, "uplink_dtype") else []
    yield Change("updates as int8 on the air", [*ways, ["codec=int8"]])
    if ways:
        yield Change("updates as fp16 on the air", [[f"{method}.uplink_dtype=fp16"]])
    if _allows(config, "activation_dtype"):
        keys = ("activation_dtype", "gradient_dtype")
        yield Change("int8 across the cut", [[f"{method}.{key}=int8" for key in keys]])


def _fewer_bits_down(config: ExperimentConfig) -> Iterator[Change]:
    if _allows(config, "downlink_dtype"):
        yield Change("the broadcast as fp16", [[f"{config.method}.downlink_dtype=fp16"]])


def _lower_rank(config: ExperimentConfig) -> Iterator[Change]:
    section = config.adapter
    if section.kind == "lora" and section.rank > 1 and section.start is None:
        rank = section.rank // 2
        yield Change(f"half the rank ({rank})", [[f"adapter.rank={rank}"]], FEWER, helps="both")


def _fewer_steps(config: ExperimentConfig) -> Iterator[Change]:
    if config.training.local_steps > 1 and find_method(config.method).is_federated:
        steps = config.training.local_steps // 2
        yield Change(f"half the local steps ({steps})", [[f"training.local_steps={steps}"]], FEWER)


def _smaller_base(config: ExperimentConfig) -> Iterator[Change]:
    for dtype in ("bf16", "int8", "nf4"):
        if dtype != config.dtype and config.adapter.kind == "lora":
            yield Change(f"the base in {dtype}", [[f"dtype={dtype}"]], helps="fit")


def _less_memory(config: ExperimentConfig) -> Iterator[Change]:
    training = config.training
    if not training.gradient_checkpointing:
        words, setting = "gradient checkpointing", "training.gradient_checkpointing=true"
        yield Change(words, [[setting]], helps="fit")
    if training.gradient_accumulation < training.batch_size:
        setting = f"training.gradient_accumulation={training.batch_size}"
        yield Change("micro-batches of one row", [[setting]], helps="fit")
