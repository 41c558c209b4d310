"""What a client device can do, as a data file in which every figure names its source; its energy.

    E = P_compute t_compute + (p / eta) t_upload        [J]

with the device's power draw while it trains, the transmit power p at the antenna, and the power
amplifier's efficiency eta. This is the usual split of federated learning over radio links into
computing and transmitting (Yang et al., IEEE Trans. Wireless Commun. 20(3), 2021, arXiv
1911.02417, section II), with the measured power of the device in place of kappa C f^2, and with the
proportional part of an affine amplifier model. Left out: receiving the broadcast, the modem's and
the device's idle power, the screen, and the server.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from airtune.errors import InputError
from airtune.files import parse_yaml, read_yaml_mapping
from airtune.quantities import FloatArray, UsualRange, dbm_to_watts, read_meant, refuse_unusual
from airtune.suggest import suggest

KINDS = ("phone", "board", "laptop", "desktop", "server", "other")
FIGURES = ("training_flop_rate", "memory_bytes", "computing_power_w", "tx_power_dbm")
"""The figures of a profile, each of which needs a source."""
UNSTATED = "not stated"
"""The software of a profile that names none."""

USABLE_MEMORY_SHARE = 0.65
"""Share of the RAM that training may use: 5.2 of 8 GB are free on a Jetson Orin Nano once its
system runs (ericxliu.me, "Benchmarking LLMs on Jetson Orin Nano"); other devices are assumed to be
alike."""
USABLE_CARD_SHARE = 0.9
"""Of a graphics card's own memory in a desktop or a server; assumed, for what the driver takes."""

_MOST_POWER_W = {"phone": 50.0, "board": 200.0, "laptop": 400.0, "desktop": 2e3}
_USUAL = {
    "training_flop_rate": UsualRange(1e7, 1e17, "it is read in FLOP/s: 4e10 for 40 GFLOP/s"),
    "memory_bytes": UsualRange(16e6, 10e12, "it is read in bytes: 8e9 for 8 GB"),
    "tx_power_dbm": UsualRange(-50.0, 47.0, "it is read in dBm: 23 for 0.2 W", decibels=True),
}


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of device.

    `training_flop_rate` is sustained during a LoRA step [FLOP/s] with `software`, `memory_bytes` is
    all of the RAM (in a desktop or a server: of its graphics card), `computing_power_w` what the
    device draws while it trains (None: not known, so no energy can be charged), `tx_power_dbm` the
    most that its modem radiates. `unusual_values` names figures that are meant although they are
    outside their usual range.
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
    unusual_values: tuple[str, ...] = ()

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
            **{figure: getattr(self, figure) for figure in FIGURES},
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
    where = f"{name} in {file}"
    if not isinstance(value, Mapping):
        raise InputError(where, repr(value), "a mapping of figures")
    _refuse_unknown_keys(value, where)
    sources = value.get("sources", {})
    if not isinstance(sources, Mapping):
        raise InputError(f"sources of {where}", repr(sources), "a mapping from figure to source")
    kind = str(value.get("kind", "other"))
    if kind not in KINDS:
        raise InputError(f"kind of {where}", kind, f"one of {', '.join(KINDS)}")
    meant = read_meant(value.get("unusual_values"), FIGURES, f"unusual_values of {where}")
    figures = {
        figure: check_figure(f"{figure} of {where}", value.get(figure), kind, meant)
        for figure in FIGURES
        if not (figure == "computing_power_w" and value.get(figure) is None)
    }
    profile = DeviceProfile(
        name=name,
        title=str(value.get("title", name)),
        kind=kind,
        training_flop_rate=figures["training_flop_rate"],
        memory_bytes=int(figures["memory_bytes"]),
        computing_power_w=figures.get("computing_power_w"),
        tx_power_dbm=figures["tx_power_dbm"],
        sources=MappingProxyType({str(key): str(text) for key, text in sources.items()}),
        software=str(value.get("software", UNSTATED)),
        unusual_values=meant,
    )
    missing = [figure for figure in FIGURES if not profile.sources.get(figure)]
    if missing:
        raise InputError(
            f"sources of {where}",
            f"without {', '.join(missing)}",
            "a source for every figure",
            "name the source of the figure, if only 'assumed'",
        )
    return profile


def _refuse_unknown_keys(value: Mapping[str, Any], where: str) -> None:
    known = ("title", "kind", "software", *FIGURES, "unusual_values", "sources")
    for key in value:
        if key not in known:
            remedy = suggest(key, known)
            raise InputError(where, f"a profile with {key}", f"made of {', '.join(known)}", remedy)


def check_figure(
    field: str, number: object, kind: str = "other", meant: Collection[str] = ()
) -> float:
    """A finite figure of a profile in its usual range; every figure but decibels is positive.

    Args:
        field: begins with the name of the figure.
        kind: of the device: a phone draws less than a server.
        meant: figures that may be unusual.
    """
    figure = field.split(" ")[0]
    positive = figure != "tx_power_dbm"
    allowed = "a positive number" if positive else "a number"
    if number is None:
        raise InputError(field, "missing", allowed)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(field, number, allowed)
    if not math.isfinite(number) or (positive and number <= 0):
        raise InputError(field, number, allowed)
    power = UsualRange(0.05, _MOST_POWER_W.get(kind, 2e4), "it is read in watts")
    refuse_unusual(field, number, _USUAL.get(figure, power), "unusual_values of the device", meant)
    return float(number)


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


def client_energy(
    device: DeviceProfile, compute_s: float, upload_s: float, tx_power_w: float
) -> float:
    """Energy of one client [J]. Raises InputError for a device whose power is not known."""
    if device.computing_power_w is None:
        raise InputError(
            f"computing_power_w of {device.name}",
            "not known",
            "given",
            "measure what the device draws while it trains and write it into its profile",
        )
    power_w = np.asarray(device.computing_power_w)
    times = np.asarray(compute_s), np.asarray(upload_s)
    return float(energy_j(*times, power_w, np.asarray(tx_power_w)))
