"""Channels for the simulation of many TSFA rounds: Rayleigh fading, none, or a file."""

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from airtune.allocation.lyapunov import ChannelSource
from airtune.errors import InputError
from airtune.files import read_text
from airtune.problems.reading import Reader
from airtune.quantities import FloatArray, db_to_linear
from airtune.wireless.fading import BlockFading, NoFading
from airtune.wireless.rate import (
    FixedEfficiencyLinks,
    Links,
    MixedLinks,
    ShannonLinks,
    mixed_links,
)
from airtune.wireless.replay import read_recording

FADING = ("rayleigh", "none")
VALUES = ("gain_db", "gain", "spectral_efficiency_bps_hz")
"""What a column of a trace may hold."""


@dataclass(frozen=True)
class ChannelChoice:
    """How the channel changes from round to round.

    Attributes:
        fading: independent Rayleigh fading around the problem's own gains, or none.
        seed: of the fading.
        trace: a file instead of fading: a recording made by `airtune export`, or a csv with the
            columns `round`, `client` (a name) and one of `VALUES`. It starts over at its end.
    """

    fading: str = "rayleigh"
    seed: int = 0
    trace: Path | None = None


def read_channel(top: Reader) -> ChannelChoice:
    """The section `channel` of a problem; Rayleigh fading without one."""
    if not top.has("channel"):
        return ChannelChoice()
    section = top.section("channel")
    fading = section.text("fading", "rayleigh")
    if fading not in FADING:
        raise InputError("channel.fading", fading, f"one of {', '.join(FADING)}")
    trace = Path(section.text("trace")) if section.has("trace") else None
    if trace is not None and section.has("fading"):
        raise InputError("channel.fading", fading, "left out beside channel.trace")
    choice = ChannelChoice(fading, section.count("seed", 0, least=0), trace)
    section.close()
    return choice


def channel_source(
    choice: ChannelChoice, links: Links, cn0_per_gain_hz: FloatArray, names: tuple[str, ...]
) -> ChannelSource:
    """The links of each round.

    Args:
        links: of the problem, the mean of the fading.
        cn0_per_gain_hz: p / N0 [client], for a trace of gains; NaN where unknown.
        names: of the clients, as a trace calls them.
    """
    if choice.trace is None:
        clients = len(links)
        source = BlockFading(choice.seed, clients, 0.0)
        fading = source if choice.fading == "rayleigh" else NoFading(clients)
        return lambda index: faded(links, fading.power_gain(index))
    if choice.trace.suffix == ".npz" or "view" in _header(choice.trace):
        recording = read_recording(choice.trace, len(links))
        order = sorted(recording.observations)
        return lambda index: recording.observe(order[index % len(order)]).truth.uplink()
    column, values = _read_trace(choice.trace, names)
    if column == "spectral_efficiency_bps_hz":
        return lambda index: FixedEfficiencyLinks(values[index % len(values)])
    unknown = np.flatnonzero(np.isnan(cn0_per_gain_hz))
    if len(unknown):
        where = f"channel.trace, gain of client {names[unknown[0]]}"
        raise InputError(where, "given", "a spectral efficiency: the client has no tx_power_dbm")
    gain = db_to_linear(values) if column == "gain_db" else values
    return lambda index: ShannonLinks(cn0_per_gain_hz * gain[index % len(gain)])


def faded(links: Links, power_gain: FloatArray) -> Links:
    """The links with their signal-to-noise ratio times a power gain [client].

    A fixed spectral efficiency eta stands for the ratio `2^eta - 1`, which fades likewise:
    `eta' = log2(1 + (2^eta - 1) h)`.
    """
    if isinstance(links, ShannonLinks):
        return ShannonLinks(links.cn0_hz * power_gain, links.margin)
    if isinstance(links, FixedEfficiencyLinks):
        return FixedEfficiencyLinks(_faded_efficiency(links.spectral_efficiency_bps_hz, power_gain))
    if isinstance(links, MixedLinks):
        eta = _faded_efficiency(links.fixed.spectral_efficiency_bps_hz, power_gain)
        return mixed_links(
            np.where(links.is_fixed, np.nan, links.shannon.cn0_hz * power_gain),
            np.where(links.is_fixed, eta, np.nan),
            links.shannon.margin,
        )
    raise TypeError(f"no fading is defined for {type(links).__name__}")


def _faded_efficiency(efficiency: FloatArray, power_gain: FloatArray) -> FloatArray:
    snr = np.expm1(efficiency * np.log(2.0)) * power_gain
    faded_efficiency: FloatArray = np.log1p(snr) / np.log(2.0)
    return faded_efficiency


def _header(path: Path) -> list[str]:
    return read_text(path, "channel.trace").partition("\n")[0].strip().split(",")


def _read_trace(path: Path, names: tuple[str, ...]) -> tuple[str, FloatArray]:
    """The column that it has, and its values [round, client]."""
    reader = csv.DictReader(StringIO(read_text(path, "channel.trace")))
    header = reader.fieldnames or []
    columns = [name for name in VALUES if name in header]
    if len(columns) != 1 or not {"round", "client"} <= set(header):
        allowed = f"a csv file with the columns round, client and one of {', '.join(VALUES)}"
        raise InputError("channel.trace", f"{path} with {', '.join(header)}", allowed)
    table: dict[str, dict[str, float]] = {}
    for row in reader:
        value = _value(row[columns[0]], columns[0], f"{path}, line {reader.line_num}")
        table.setdefault(row["round"], {})[row["client"]] = value
    if not table:
        raise InputError("channel.trace", f"{path} without a row", "a csv file with rounds")
    for label, values in table.items():
        for name in names:
            if name not in values:
                raise InputError("channel.trace", f"{path} without client {name} in round {label}",
                                 "a row for each client in every round")  # fmt: skip
    return columns[0], np.array([[values[name] for name in names] for values in table.values()])


def _value(text: str | None, column: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    low = -np.inf if column == "gain_db" else 0.0
    if not low <= value < np.inf:
        raise InputError("channel.trace", f"{where}, {column} {text!r}", f"a number >= {low:g}")
    return value
