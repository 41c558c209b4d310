"""Channels as files, so that other programs see the same cell, and back again to the bit."""

import csv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airtune.csv_table import plain_number, read_csv
from airtune.errors import InputError
from airtune.files import write_bytes_atomic
from airtune.wireless.budget import RATE_MODELS, LinkBudget
from airtune.wireless.state import ChannelState, Observation

VIEWS = ("truth", "estimate")
_BUDGET = [entry.name for entry in fields(LinkBudget) if entry.name != "rate_model"]
_PER_CLIENT = [
    "speed_m_s",
    "path_loss_db",
    "shadowing_db",
    "fading_gain",
    "gain",
    "spectral_efficiency",
]
_DOWNLINK = "downlink_efficiency"
"""A column of channels whose directions were measured apart; others do not have it."""
_LEAST = {
    "speed_m_s": 0.0,
    "fading_gain": 0.0,
    "gain": 0.0,
    "spectral_efficiency": 0.0,
    _DOWNLINK: 0.0,
    "tx_power_w": 0.0,
    "bs_tx_power_w": 0.0,
    "uplink_noise_psd": 0.0,
    "downlink_noise_psd": 0.0,
    "margin": 0.0,
}
"""The least value of a column; there is no largest, but infinity."""
_LABELS = ["round", "view", "state_round", "client"]
_STORED = ["x_m", "y_m", "line_of_sight", *_PER_CLIENT, *_BUDGET]
COLUMNS = [*_LABELS, *_STORED, "rate_model", "uplink_cn0_hz", "downlink_cn0_hz"]
"""Columns of an exported csv, one row for each round, view and client.

`view` is truth or estimate; `state_round` is the round in which the state held, an earlier one for
a stale estimate. Units are in the names; powers are W, `*_noise_psd` W/Hz, gains and `margin`
linear, `spectral_efficiency` bit/s/Hz; what is unknown is empty. The two cn0 columns follow from
the others. A channel whose directions were measured apart has `downlink_efficiency` after them. An
npz file has the same columns as arrays [round, view, client], unknown as NaN.
"""


@dataclass(frozen=True)
class Recording:
    """Observations of some rounds, in order."""

    name: str
    observations: Mapping[int, Observation]

    def observe(self, round_index: int) -> Observation:
        """The recorded round; InputError where there is none."""
        if round_index not in self.observations:
            raise self._lacks(f"round {round_index}")
        return self.observations[round_index]

    def require_rounds(self, count: int) -> None:
        """Refuse, before the first round, a recording that ends before the last one."""
        if not all(index in self.observations for index in range(count)):
            raise self._lacks(f"every round from 0 to {count - 1}")

    def _lacks(self, what: str) -> InputError:
        first, last = min(self.observations), max(self.observations)
        return InputError(
            "cell.replay",
            f"{self.name} with rounds {first} to {last}",
            f"a recording that holds {what}",
            "record more with `airtune channel --rounds`, or set fewer rounds",
        )


def check_recording_name(path: Path, field: str = "path") -> None:
    """Refuse a file name without a known format, before anything is drawn for it."""
    if path.suffix not in (".csv", ".npz"):
        raise InputError(field, str(path), "a file name that ends in .csv or .npz")


def write_recording(path: Path, rounds: Sequence[int], observations: Sequence[Observation]) -> None:
    """Write observations to a .csv or .npz file, atomically.

    Raises InputError for another suffix or no round, AirtuneError where the file cannot be written.
    """
    check_recording_name(path)
    if not rounds:
        raise InputError("rounds", "empty", "at least one round to export")
    table = _table(rounds, observations)
    if path.suffix == ".csv":
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [*COLUMNS, *(_DOWNLINK for name in table if name == _DOWNLINK)]
        writer.writerow(columns)
        flat = [table[column].ravel().tolist() for column in columns]
        writer.writerows([_cell(value) for value in row] for row in zip(*flat, strict=True))
        write_bytes_atomic(path, text.getvalue().encode())
    else:
        packed = BytesIO()
        np.savez_compressed(packed, **table)  # type: ignore[arg-type]
        write_bytes_atomic(path, packed.getvalue())


def read_recording(path: Path, clients: int) -> Recording:
    """Read what `write_recording` wrote, for the first `clients` clients of it.

    Raises InputError naming `cell.replay`: file missing, not such a file, too few clients.
    """
    flat = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    shape = tuple(len(np.unique(flat[label])) for label in ("round", "view", "client"))
    if np.prod(shape) != len(flat["round"]) or shape[1] != 2 or not len(flat["round"]):
        raise _unusable(path, "every client's truth and estimate in every round, once")
    if shape[2] < clients:
        raise _unusable(path, f"at least {clients} clients, not {shape[2]}")
    order = np.lexsort((flat["client"], flat["view"] != VIEWS[0], flat["round"]))
    table = {column: values[order].reshape(shape) for column, values in flat.items()}
    for axis, label in enumerate(("round", "view", "client")):
        # Along the other two axes each label has to stand still.
        if (table[label] != table[label].take([0], axis=axis - 1).take([0], axis=axis - 2)).any():
            raise _unusable(path, "every client's truth and estimate in every round, once")
    observations = {
        int(label): Observation(*(_state(table, (row, view), clients) for view in range(2)))
        for row, label in enumerate(table["round"][:, 0, 0])
    }
    if all(len(seen.truth.out_of_reach()) == clients for seen in observations.values()):
        raise _unusable(path, "a client in reach in some round")
    return Recording(path.name, observations)


def _table(rounds: Sequence[int], observations: Sequence[Observation]) -> dict[str, NDArray[Any]]:
    """Every column as an array [round, view, client]."""
    states = [[seen.truth, seen.estimate] for seen in observations]
    clients = len(states[0][0])
    table = {"round": np.array(rounds), "view": np.array(VIEWS), "client": np.arange(clients)}
    labels = np.meshgrid(*table.values(), indexing="ij")
    table = dict(zip(table, labels, strict=True))
    rows = [[_columns(state) for state in pair] for pair in states]
    for column in rows[0][0]:
        values = [[np.broadcast_to(each[column], clients) for each in pair] for pair in rows]
        table[column] = np.array(values)
    return table


def _columns(state: ChannelState) -> dict[str, Any]:
    sight = state.line_of_sight
    return {
        "state_round": state.round_index,
        "x_m": state.position_m[:, 0],
        "y_m": state.position_m[:, 1],
        "line_of_sight": np.full(len(state), np.nan) if sight is None else sight.astype(float),
        **{name: getattr(state, name) for name in _PER_CLIENT},
        **asdict(state.budget),
        "uplink_cn0_hz": state.uplink_cn0_hz(),
        "downlink_cn0_hz": state.downlink_cn0_hz(),
        **({} if state.downlink_efficiency is None else {_DOWNLINK: state.downlink_efficiency}),
    }


def _state(table: Mapping[str, NDArray[Any]], at: tuple[int, int], clients: int) -> ChannelState:
    column = {name: values[at][:clients] for name, values in table.items()}
    sight = column["line_of_sight"]
    budget = {name: float(column[name][0]) for name in _BUDGET}
    return ChannelState(
        round_index=int(column["state_round"][0]),
        position_m=np.stack([column["x_m"], column["y_m"]], axis=1),
        line_of_sight=None if np.isnan(sight).any() else sight.astype(bool),
        budget=LinkBudget(**budget, rate_model=str(column["rate_model"][0])),
        **{name: column[name] for name in _PER_CLIENT},
        downlink_efficiency=column.get(_DOWNLINK),
    )


def _cell(value: Any) -> Any:
    """A csv cell: empty for NaN; `repr` of a float has every bit of it."""
    return "" if isinstance(value, float) and np.isnan(value) else value


def _read_csv(path: Path) -> dict[str, NDArray[Any]]:
    file = read_csv(path, "cell.replay")
    needed = [*_LABELS, *_STORED, "rate_model"]
    stored = [*_STORED, *(_DOWNLINK for name in file.columns if name == _DOWNLINK)]
    if not file.rows or not set(needed) <= set(file.columns):
        raise _unusable(path, f"rows with the columns {', '.join(needed)}")
    texts = {column: [row[column] for _, row in file.rows] for column in {*needed, *stored}}
    lines = [line for line, _ in file.rows]

    def numbers(name: str) -> NDArray[np.float64]:
        """What a text means; empty is unknown."""
        values = [plain_number(text) if text else np.nan for text in texts[name]]
        for line, text, value in zip(lines, texts[name], values, strict=True):
            if value is None:
                raise _unusable(path, f"numbers, not {text!r} in line {line}, {name}")
        return np.array(values, dtype=np.float64)

    table: dict[str, NDArray[Any]] = {name: numbers(name) for name in stored}
    for name in ("round", "state_round", "client"):
        label = numbers(name)
        if not (np.isfinite(label) & (label >= 0) & (label % 1 == 0) & (label < 2**53)).all():
            raise _unusable(path, f"whole numbers >= 0 as {name}")
        table[name] = label.astype(np.int64)
    table |= {name: np.array(texts[name]) for name in ("view", "rate_model")}
    return _checked(path, table)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise InputError("cell.replay", str(path), "a file that exists", "check the path")
    try:
        with np.load(path, allow_pickle=False) as packed:
            table = {name: packed[name].ravel() for name in packed.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _unusable(path, f"a readable npz file ({error})") from None
    if not {*_LABELS, *_STORED, "rate_model"} <= set(table):
        raise _unusable(path, "every column that an export has")
    labels = ("round", "state_round", "client")
    if any(table[name].dtype.kind not in "iu" for name in labels):
        raise _unusable(path, f"whole numbers as {', '.join(labels)}")
    if any(table[name].dtype.kind != "f" for name in (*_STORED, _DOWNLINK) if name in table):
        raise _unusable(path, "numbers in its columns")
    if len({len(values) for values in table.values()}) != 1:
        raise _unusable(path, "columns of one length")
    return _checked(path, table)


def _checked(path: Path, table: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if not set(table["view"].tolist()) <= set(VIEWS):
        raise _unusable(path, "the views truth and estimate")
    if not set(table["rate_model"].tolist()) <= set(RATE_MODELS):
        raise _unusable(path, f"a rate_model among {', '.join(RATE_MODELS)}")
    for name, least in _LEAST.items():
        if name not in table:
            continue
        values = table[name]
        # NaN marks what is unknown; the budget is always known.
        known = values[~np.isnan(values)] if name in _PER_CLIENT else values
        if not (np.isfinite(known) & (known >= least)).all():
            raise _unusable(path, f"finite numbers >= {least:g} as {name}")
    if not (table["uplink_noise_psd"].min() > 0 and table["downlink_noise_psd"].min() > 0):
        raise _unusable(path, "noise densities above 0")
    if (np.isnan(table["gain"]) & np.isnan(table["spectral_efficiency"])).any():
        raise _unusable(path, "a gain or a spectral_efficiency in every row")
    return table


def _unusable(path: Path, needs: str) -> InputError:
    return InputError("cell.replay", str(path), f"an exported channel with {needs}")
