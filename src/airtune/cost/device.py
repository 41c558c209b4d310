"""What a client device can do, as a data file in which every figure names its source; its energy.

    E = P_compute t_compute + (p / eta) t_upload        [J]

with the device's power draw while it trains, the transmit power p at the antenna, and the power
amplifier's efficiency eta. At a share s of its full speed a device draws

    P_compute = P_idle + (P_full - P_idle) s^3           [W],

the cubic law of voltage and frequency scaling, where its idle power is known. This is the usual
split of federated learning over radio links into computing and transmitting (Yang et al., IEEE
Trans. Wireless Commun. 20(3), 2021, arXiv 1911.02417, section II), with the measured power of the
device in place of kappa C f^2, and with the proportional part of an affine amplifier model. Left
out: receiving the broadcast, the modem's and the device's idle power beside its computing, the
screen, and the server.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from airtune.errors import InputError
from airtune.files import parse_yaml, read_yaml_mapping
from airtune.quantities import FloatArray, UsualRange, dbm_to_watts
from airtune.section import Section, check, refuse_slip, refused
from airtune.suggest import suggest

Kind = Literal["phone", "board", "laptop", "desktop", "server", "other"]
FIGURES = ("training_flop_rate", "memory_bytes", "computing_power_w", "tx_power_dbm")
"""The figures of a profile, each of which needs a source."""
IDLE = "idle_power_w"
"""A figure that only slower computing needs; where it is given, it needs a source, too."""
UNSTATED = "not stated"
"""The software of a profile that names none."""

USABLE_MEMORY_SHARE = 0.65
"""Share of the RAM that training may use: 5.2 of 8 GB are free on a Jetson Orin Nano once its
system runs (ericxliu.me, "Benchmarking LLMs on Jetson Orin Nano"); other devices are assumed to be
alike."""
USABLE_CARD_SHARE = 0.9
"""Of a graphics card's own memory in a desktop or a server; assumed, for what the driver takes."""

_MOST_POWER_W = {"phone": 50.0, "board": 200.0, "laptop": 400.0, "desktop": 2e3}
_RATE = UsualRange(1e7, 1e17, "it is read in FLOP/s: 4e10 for 40 GFLOP/s")
_MEMORY = UsualRange(16e6, 10e12, "it is read in bytes: 8e9 for 8 GB")
_RADIO = UsualRange(-50.0, 47.0, "it is read in dBm: 23 for 0.2 W", decibels=True)


def power_range(kind: str) -> UsualRange:
    """The usual power of a device that computes: a phone draws less than a server."""
    return UsualRange(0.05, _MOST_POWER_W.get(kind, 2e4), "it is read in watts")


class DeviceSection(Section):
    """One kind of device in a file of profiles, under its name.

    A figure outside its usual range is refused as a likely slip of units, unless `unusual_values`
    names it.
    """

    from_texts = False
    meant_too = ("computing_power_w",)

    title: str | None = Field(None, description="of the device in lists; null: its name")
    kind: Kind = Field("other", description="phone | board | laptop | desktop | server | other")
    software: str = Field(UNSTATED, description="with which its training rate was measured")
    rate_precision: str = Field(
        UNSTATED, description="number format of the base in that measurement"
    )
    training_flop_rate: Annotated[float, _RATE] = Field(
        gt=0, description="sustained during a LoRA step [FLOP/s]"
    )
    memory_bytes: Annotated[float, _MEMORY] = Field(
        gt=0, description="all of the RAM; in a desktop or a server, of its graphics card"
    )
    computing_power_w: float | None = Field(
        None, gt=0, description="drawn while it trains [W]; null: not known, no energy is charged"
    )
    idle_power_w: float | None = Field(
        None,
        ge=0,
        description="drawn while it waits [W], what slower computing cannot save; null: not known, "
        "no slower computing is planned",
    )
    tx_power_dbm: Annotated[float, _RADIO] = Field(description="most that its modem radiates [dBm]")
    unusual_values: str | tuple[str, ...] | None = Field(
        None, description="figures that are meant although they are outside their usual range"
    )
    sources: dict[str, str] = Field(
        default_factory=dict, description="where each figure comes from, if only 'assumed'"
    )

    @model_validator(mode="after")
    def _check_power(self) -> "DeviceSection":
        if self.computing_power_w is not None:
            refuse_slip("computing_power_w", self.computing_power_w, power_range(self.kind), self)
        idle, full = self.idle_power_w, self.computing_power_w
        if idle is not None and (full is None or idle > full):
            most = "unknown" if full is None else f"{full:g} W"
            raise refused(
                IDLE, idle, f"at most computing_power_w, which is {most}", "give both, or neither"
            )
        figures = FIGURES if idle is None else (*FIGURES, IDLE)
        missing = [figure for figure in figures if not self.sources.get(figure)]
        if missing:
            raise refused(
                "sources",
                f"without {', '.join(missing)}",
                "a source for every figure",
                "name the source of the figure, if only 'assumed'",
            )
        return self


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of device, as `DeviceSection` describes it.

    `unusual_values` names figures that are meant although they are outside their usual range.
    """

    name: str
    title: str
    kind: str
    training_flop_rate: float
    memory_bytes: int
    computing_power_w: float | None
    tx_power_dbm: float
    sources: Mapping[str, str]
    software: str = UNSTATED
    rate_precision: str = UNSTATED
    unusual_values: tuple[str, ...] = ()
    idle_power_w: float | None = None

    @property
    def tx_power_w(self) -> float:
        """Maximum transmit power [W]."""
        return float(dbm_to_watts(self.tx_power_dbm))

    @property
    def usable_memory_bytes(self) -> int:
        """What the system leaves to training."""
        card = self.kind in ("desktop", "server")
        return int((USABLE_CARD_SHARE if card else USABLE_MEMORY_SHARE) * self.memory_bytes)

    def mapping(self) -> dict[str, Any]:
        """The profile as the data file writes it, under its name."""
        return {
            "title": self.title,
            "kind": self.kind,
            "software": self.software,
            "rate_precision": self.rate_precision,
            **{figure: getattr(self, figure) for figure in FIGURES},
            **({} if self.idle_power_w is None else {IDLE: self.idle_power_w}),
            **({"unusual_values": list(self.unusual_values)} if self.unusual_values else {}),
            "sources": dict(self.sources),
        }


def load_devices(own: Path | str | None = None) -> dict[str, DeviceProfile]:
    """The profiles that ship with airtune and, over them, those of the user's own file.

    Raises InputError that names the file, the device and the figure.
    """
    devices = dict(_bundled())
    if own is not None:
        devices |= _read_profiles(read_yaml_mapping(own, "clients.device_file"), str(own))
    return devices


def refuse_unnamed(own: Path | str | None, named: Iterable[str]) -> None:
    """Refuse a user's own file of which no profile is named: it would have no effect."""
    if own is None:
        return
    profiles = _read_profiles(read_yaml_mapping(own, "clients.device_file"), str(own))
    if profiles and not set(profiles) & set(named):
        raise InputError(
            "clients.device_file",
            str(own),
            f"a file with a profile that clients.devices names (it has {', '.join(profiles)})",
            "name one in clients.devices, or leave the file out",
        )


def find_device(
    name: str, devices: Mapping[str, DeviceProfile], field: str = "clients.devices"
) -> DeviceProfile:
    """The profile of this name, or an InputError with the closest name there is."""
    if name in devices:
        return devices[name]
    raise InputError(
        field,
        name,
        f"one of {', '.join(devices)}",
        suggest(name, devices, "`airtune device list` shows them"),
    )


def rates_notice(devices: Iterable[DeviceProfile], dtype: str) -> str:
    """A sentence on the rates of devices that were measured with another base; empty where all
    were measured with this one.

    The same rate is charged whatever the dtype: how much faster or slower a device is with another
    base was measured for none of them.
    """
    others: dict[str, dict[str, None]] = {}
    for device in devices:
        if device.rate_precision != dtype:
            others.setdefault(device.rate_precision, {})[device.name] = None
    if not others:
        return ""
    kinds = [f"{precision} ({', '.join(names)})" for precision, names in others.items()]
    return (
        f"Training rates are charged for {dtype} as the device profiles state them, which were "
        f"measured with a base in {' and in '.join(kinds)}."
    )


def refuse_small_memory(client: str, device: DeviceProfile, needed_bytes: float) -> None:
    """Refuse a client whose device cannot hold its training, by name.

    Compared is the peak memory with the usable share of the RAM. Raises InputError.
    """
    usable = device.usable_memory_bytes
    if needed_bytes > usable:
        raise InputError(
            f"memory of {client}",
            f"{usable / 1e9:.3g} GB usable (of {device.memory_bytes / 1e9:.3g} GB) on "
            f"{device.name}",
            f"at least {needed_bytes / 1e9:.3g} GB for this model, batch and length",
            "lower training.batch_size or data.max_tokens, prune or split the model, or give the "
            "client a larger device",
        )


@cache
def _bundled() -> Mapping[str, DeviceProfile]:
    text = (files("airtune") / "cost" / "devices.yaml").read_text(encoding="utf-8")
    return MappingProxyType(_read_profiles(parse_yaml(text, "devices.yaml"), "devices.yaml"))


def _read_profiles(content: Mapping[str, Any], file: str) -> dict[str, DeviceProfile]:
    return {str(name): _profile(str(name), value, file) for name, value in content.items()}


def _profile(name: str, value: object, file: str) -> DeviceProfile:
    section = check(DeviceSection, value, f"{{}} of {name} in {file}")
    meant = section.unusual_values or ()
    return DeviceProfile(
        name=name,
        title=section.title or name,
        kind=section.kind,
        training_flop_rate=section.training_flop_rate,
        memory_bytes=int(section.memory_bytes),
        computing_power_w=section.computing_power_w,
        tx_power_dbm=section.tx_power_dbm,
        sources=MappingProxyType(section.sources),
        software=section.software,
        rate_precision=section.rate_precision,
        unusual_values=(meant,) if isinstance(meant, str) else meant,
        idle_power_w=section.idle_power_w,
    )


def refuse_figures(**figures: float | None) -> None:
    """Raise InputError for a figure of this machine that no profile could have."""
    other = {"training_flop_rate": 1e10, "memory_bytes": 1e9, "tx_power_dbm": 23.0}
    sources = dict.fromkeys((*FIGURES, IDLE), "given")
    check(DeviceSection, {**other, **figures, "sources": sources})


AMPLIFIER_EFFICIENCY = 0.35
"""Radiated over consumed power of a handset's amplifier near full power; assumed, not measured."""


def energy_j(
    compute_s: FloatArray,
    upload_s: FloatArray,
    computing_power_w: FloatArray,
    tx_power_w: FloatArray,
    amplifier_efficiency: float = AMPLIFIER_EFFICIENCY,
) -> FloatArray:
    """The module's formula, elementwise over [client]. Raises InputError for a bad efficiency."""
    if not 0.0 < amplifier_efficiency <= 1.0:
        raise InputError("amplifier_efficiency", amplifier_efficiency, "above 0 and at most 1")
    computing = np.asarray(computing_power_w, dtype=np.float64) * compute_s
    return computing + np.asarray(tx_power_w, dtype=np.float64) / amplifier_efficiency * upload_s


def power_at(device: DeviceProfile, speed: float) -> float:
    """What a device draws while it trains at a share of its full speed [W].

    Raises InputError for a device whose power is not known.
    """
    if device.computing_power_w is None:
        raise InputError(
            f"computing_power_w of {device.name}",
            "not known",
            "given",
            "measure what the device draws while it trains and write it into its profile",
        )
    if speed == 1.0:
        return device.computing_power_w
    idle_w = known_idle_power_w(device)
    return idle_w + (device.computing_power_w - idle_w) * speed**3


def known_idle_power_w(device: DeviceProfile) -> float:
    """The idle power [W]; InputError, naming the device, where it is not known."""
    if device.idle_power_w is None:
        raise InputError(
            f"{IDLE} of {device.name}",
            "not known",
            "given where slower computing is planned",
            "measure what the device draws while it waits and write it into its profile",
        )
    return device.idle_power_w


def client_energy(
    device: DeviceProfile,
    compute_s: float,
    upload_s: float,
    tx_power_w: float,
    speed: float = 1.0,
) -> float:
    """`energy_j` of one client [J], in plain numbers, since every client of every round is charged.

    Raises InputError for a device whose power is not known.
    """
    computing_j = power_at(device, speed) * compute_s
    return float(computing_j + tx_power_w / AMPLIFIER_EFFICIENCY * upload_s)
