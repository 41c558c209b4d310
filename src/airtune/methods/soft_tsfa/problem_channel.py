"""Channels for the simulation of many TSFA rounds: Rayleigh fading, none, or a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from airtune.allocation.sparsity.lyapunov import ChannelSource
from airtune.csv_table import CsvTable, plain_number, read_csv
from airtune.errors import InputError
from airtune.methods.soft_tsfa.problem_file import ChannelSection
from airtune.quantities import FloatArray, db_to_linear
from airtune.wireless.attenuation import BlockFading, NoFading
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import (
    FixedEfficiencyLinks,
    Links,
    MixedLinks,
    ShannonLinks,
    mixed_links,
)
from airtune.wireless.replay import read_recording

VALUES = ("gain_db", "gain", "spectral_efficiency_bps_hz")
"""What a column of a trace may hold."""
_LARGEST, _LARGEST_DB = 1e12, 400.0
"""Of a linear gain or a spectral efficiency, and of a gain in decibels up or down: far beyond what
a link has, and far from where products of such numbers overflow."""


@dataclass(frozen=True)
class ChannelChoice:
    """How the channel changes from round to round.

    Attributes:
        fading: independent Rayleigh fading around the problem's own gains, or none.
        seed: of the fading.
        trace: a file instead of fading: a recording made by `airtune channel`, or a csv with the
            columns `round`, `client` (a name) and one of `VALUES`. It starts over at its end.
    """

    fading: str = "rayleigh"
    seed: int = 0
    trace: Path | None = None


def read_channel(section: ChannelSection) -> ChannelChoice:
    """The section `channel` of a problem; Rayleigh fading without one."""
    trace = None if section.trace is None else Path(section.trace)
    if trace is not None and section.fading is not None:
        raise InputError("channel.fading", section.fading, "left out beside channel.trace")
    return ChannelChoice(section.fading or "rayleigh", section.seed, trace)


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
    table = None if choice.trace.suffix == ".npz" else read_csv(choice.trace, "channel.trace")
    if table is None or "view" in table.columns:
        recording = read_recording(choice.trace, len(links))
        order = sorted(recording.observations)
        return lambda index: recording.observe(order[index % len(order)]).truth.uplink()
    column, values = _read_trace(table, names)
    if column == "spectral_efficiency_bps_hz":
        return lambda index: FixedEfficiencyLinks(values[index % len(values)])
    unknown = np.flatnonzero(np.isnan(cn0_per_gain_hz))
    if len(unknown):
        where = f"channel.trace, gain of client {names[unknown[0]]}"
        raise InputError(where, "given", "a spectral efficiency: the client has no tx_power_dbm")
    gain = db_to_linear(values) if column == "gain_db" else values
    if isinstance(links, CqiLinks):
        cqi_table = links.table
        return lambda index: CqiLinks(cn0_per_gain_hz * gain[index % len(gain)], table=cqi_table)
    return lambda index: ShannonLinks(cn0_per_gain_hz * gain[index % len(gain)])


def faded(links: Links, power_gain: FloatArray) -> Links:
    """The links with their signal-to-noise ratio times a power gain [client].

    A fixed spectral efficiency eta represents the ratio `2^eta - 1`, which fades likewise:
    `eta' = log2(1 + (2^eta - 1) h)`.
    """
    if isinstance(links, CqiLinks):
        return links.scaled(power_gain)
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


def _read_trace(table: CsvTable, names: tuple[str, ...]) -> tuple[str, FloatArray]:
    """The column that it has, and its values [round, client]."""
    columns = [name for name in VALUES if name in table.columns]
    if len(columns) != 1 or not {"round", "client"} <= set(table.columns):
        allowed = f"a csv file with the columns round, client and one of {', '.join(VALUES)}"
        raise InputError("channel.trace", f"{table.name} with {table.shown_columns}", allowed)
    rounds: dict[str, dict[str, float]] = {}
    for line, row in table.rows:
        place = f"{table.name}, line {line}"
        value = _value(row[columns[0]], columns[0], place)
        clients = rounds.setdefault(row["round"], {})
        if row["client"] in clients:
            given = f"{place}, round {row['round']} of client {row['client']} again"
            raise InputError("channel.trace", given, "one row for each client in every round")
        clients[row["client"]] = value
    if not rounds:
        raise InputError("channel.trace", f"{table.name} without a row", "a csv file with rounds")
    for label, values in rounds.items():
        for name in names:
            if name not in values:
                given = f"{table.name} without client {name} in round {label}"
                raise InputError("channel.trace", given, "a row for each client in every round")
    return columns[0], np.array([[values[name] for name in names] for values in rounds.values()])


def _value(text: str, column: str, where: str) -> float:
    """A cell; -inf is a gain in decibels as well: nothing arrives."""
    decibels = column == "gain_db"
    if decibels and text.lower() in ("-inf", "-.inf"):
        return -np.inf
    value = plain_number(text)
    low, high = (-_LARGEST_DB, _LARGEST_DB) if decibels else (0.0, _LARGEST)
    if value is None or not low <= value <= high:
        allowed = f"a number from {low:g} to {high:g}" + (", or -inf" if decibels else "")
        raise InputError("channel.trace", f"{where}, {column} {text!r}", allowed)
    return value
