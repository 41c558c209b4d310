"""The clients of a problem as columns of numbers, checked by the section that describes one client.

Every refusal names the key and the client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from airtune.errors import InputError
from airtune.planning.sections import NOT_NEGATIVE, ProblemSection, decibel_twin
from airtune.quantities import FloatArray
from airtune.ranges import Numbers, Range, is_number
from airtune.section import MAPPING, Spot, spots, unknown_key
from airtune.wireless.budget import power_links
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import FixedEfficiencyLinks, MixedLinks, ShannonLinks, mixed_links


@dataclass(frozen=True)
class TableOf:
    """A list of clients as part of an annotation: `Annotated[ClientTable, TableOf(Section)]`."""

    client: type[ProblemSection]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: ClientTable(self.client, value)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        row = handler(self.client.__pydantic_core_schema__)
        return {"type": "array", "items": row, "minItems": 1}


class ClientTable:
    """The clients of a problem as columns: every method returns one value per client [client].

    Args:
        client: the section that describes one client.
        clients: a list of mappings, one a client, or a mapping of keys to arrays [client] (a
            scalar there stands for all clients; nested mappings are columns as well).
        names: given for nested columns only.
    """

    def __init__(
        self,
        client: type[ProblemSection],
        clients: Any,
        where: str = "clients",
        names: Sequence[str] | None = None,
    ) -> None:
        self._client, self._where = client, where
        self._spots = spots(client)
        self._columns = _columns(clients, where)
        for key in self._columns:
            if key not in self._spots:
                raise unknown_key(f"{where}.{key}", str(key), list(self._spots))
        self._count = _count(clients, where) if names is None else len(names)
        self.names: tuple[str, ...] = tuple(names) if names is not None else self._names()
        self._read = {key: self._read_column(key, spot) for key, spot in self._spots.items()}
        self._levels = {key: self._read_level(key) for key in client.levels}

    def __len__(self) -> int:
        return self._count

    def has(self, key: str) -> bool:
        """Whether any client has the key."""
        return key in self._columns

    def number(self, key: str) -> FloatArray:
        """Numbers [client]; NaN where a client has none, and its section has no default."""
        numbers: FloatArray = self._read[key]
        return numbers

    def level(self, key: str) -> FloatArray:
        """A linear quantity [client], each client's given as `key` or as its decibel twin."""
        return self._levels[key]

    def vectors(self, key: str) -> list[FloatArray]:
        """The numbers of each client, of which one number has no axis; refused where absent."""
        column: list[Any] = self._read[key]
        for index, value in enumerate(column):
            if value is None:
                self._missing(key, index)
        return column

    def nested(self, key: str) -> "ClientTable":
        """The columns of a nested mapping, such as `payload_bits: {fixed, prunable}`."""
        table: ClientTable = self._read[key]
        return table

    def _names(self) -> tuple[str, ...]:
        """A name for each client, its number without one; refused where two are alike."""
        first: dict[str, int] = {}
        for index, name in enumerate(self._column("name")):
            if name is not None and not _is_word(name):
                raise InputError(f"{self._where}[{index}].name", name, "a word")
            word = str(index) if name is None else str(name)
            if word in first:
                both = f"clients {first[word]} and {index}" if name is not None else "two clients"
                raise InputError(
                    f"{self._where}[{index}].name",
                    word,
                    "a name of its own for every client",
                    f"{both} (counted from 0) would share it",
                )
            first[word] = index
        return tuple(first)

    def _read_column(self, key: str, spot: Spot) -> Any:
        if key == "name":
            return None
        if spot.section is not None:
            return self._read_nested(key, spot.section)
        several = next((part for part in spot.metadata if isinstance(part, Numbers)), None)
        if several is not None:
            labels = (self.label(key, index) for index in range(self._count))
            return [
                None if value is None else several.read(value, label)
                for value, label in zip(self._column(key), labels, strict=True)
            ]
        assert spot.range is not None, f"{key} is a number"
        return self._read_numbers(key, spot.range)

    def _read_nested(self, key: str, section: Any) -> "ClientTable":
        column = self._columns.get(key)
        if column is None:
            self._missing(key, 0)
        if isinstance(column, list):
            for index, value in enumerate(column):
                if value is None:
                    self._missing(key, index)
                if not isinstance(value, Mapping):
                    raise InputError(self.label(key, index), value, MAPPING)
        return ClientTable(section, column, key, self.names)

    def _read_numbers(self, key: str, allowed: Range) -> FloatArray:
        array = self._columns.get(key)
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and len(array) == len(self):
            values = array.astype(np.float64)
            given = np.ones(self._count, dtype=bool)
        else:
            column = self._column(key)
            given = np.array([value is not None for value in column], dtype=bool)
            for index, value in enumerate(column):
                if value is not None and not is_number(value):
                    raise InputError(self.label(key, index), value, allowed.refusal(value))
            values = np.array([0.0 if v is None else v for v in column], dtype=np.float64)
        self._refuse(key, values, ~given | allowed.holds(values), allowed)
        field = self._client.model_fields[key]
        if field.is_required() and not given.all():
            self._missing(key, int(np.argmin(given)))
        default = np.nan if field.is_required() or field.default is None else field.default
        filled: FloatArray = np.where(given, values, default)
        return filled

    def _read_level(self, key: str) -> FloatArray:
        twin, convert = decibel_twin(key)
        linear, decibels, allowed = self._read[key], self._read[twin], self._spots[key].range
        assert allowed is not None, f"{key} is a number"
        given = ~np.isnan(decibels)
        values = np.where(given, convert(decibels), linear)
        self._refuse(twin, decibels, ~given | allowed.holds(values), f"in watts {allowed.words}")
        self._refuse(twin, decibels, ~given | np.isnan(linear), f"left out beside {key}")
        if key in self._client.needed_levels and np.isnan(values).any():
            where = self.label(key, int(np.argmax(np.isnan(values))))
            raise InputError(where, "missing", f"{allowed.words}, or give {twin}")
        return values

    def _column(self, key: str) -> list[Any]:
        """One entry per client; None where a client lacks the key."""
        column = self._columns.get(key)
        if not isinstance(column, list | tuple | np.ndarray):
            return [column] * self._count
        if len(column) != self._count:
            raise InputError(f"{self._where}.{key}", f"{len(column)} values", f"{self._count}")
        return list(column)

    def _refuse(self, key: str, values: FloatArray, good: Any, allowed: Range | str) -> None:
        if not np.all(good):
            first = int(np.argmin(good))
            value = float(values[first])
            words = allowed if isinstance(allowed, str) else allowed.refusal(value)
            raise InputError(self.label(key, first), value, words)

    def _missing(self, key: str, index: int) -> None:
        raise InputError(self.label(key, index), "missing", self._spots[key].words)

    def label(self, key: str, index: int) -> str:
        """How a message calls one client's key."""
        path = key if self._where == "clients" else f"{self._where}.{key}"
        return f"{path} of client {self.names[index]}"


def read_links(
    clients: ClientTable, noise_psd_w_hz: float, rate_model: str = "shannon"
) -> ShannonLinks | CqiLinks | FixedEfficiencyLinks | MixedLinks:
    """Each client's link: `tx_power_w` and `gain` (or in dB), or `spectral_efficiency_bps_hz`.

    `cn0 = p g / N0`, N0 NaN where it is not given; `rate_model` says what it is worth. A client
    with both, or with neither, is refused by name, and one with an efficiency beside a table of
    rates.
    """
    efficiency = clients.number("spectral_efficiency_bps_hz")
    fixed = ~np.isnan(efficiency)
    power, gain = clients.level("tx_power_w"), clients.level("gain")
    for key, values in (("tx_power_w", power), ("gain", gain)):
        for index in np.flatnonzero(np.isnan(values) != fixed)[:1]:
            where = clients.label(key, index)
            if fixed[index]:
                raise InputError(where, "given", "left out beside spectral_efficiency_bps_hz")
            remedy = f"give {key} or {decibel_twin(key)[0]}"
            raise InputError(where, "missing", NOT_NEGATIVE.words, remedy)
    if rate_model != "shannon" and fixed.any():
        where = clients.label("spectral_efficiency_bps_hz", int(np.argmax(fixed)))
        raise InputError(where, "given", f"left out beside rate_model {rate_model}")
    if np.isnan(noise_psd_w_hz):
        if not fixed.all():
            remedy = "give noise_psd_w_hz or noise_psd_dbm_hz"
            raise InputError("noise_psd_dbm_hz", "missing", "a number", remedy)
        return FixedEfficiencyLinks(efficiency)
    cn0_hz = power / noise_psd_w_hz * gain
    if rate_model != "shannon":
        return power_links(rate_model, cn0_hz)
    return mixed_links(cn0_hz, efficiency)


def read_weights(clients: ClientTable) -> FloatArray:
    """`weight`, 1 by default, divided by the sum [client]."""
    weight = clients.number("weight")
    # Dividing by the largest first: the sum of huge weights would overflow.
    weight = weight / weight.max() if weight.max() > 0 else weight
    if not weight.sum() > 0:
        raise InputError("weight", "0 for every client", "above 0 for at least one client")
    shares: FloatArray = weight / weight.sum()
    return shares


def read_downlink(clients: ClientTable, *, needed: bool = False) -> FloatArray | None:
    """`downlink_rate_bps` [client]; None where no client has one, and so no download is charged.

    Raises InputError where some have none, and where one is missing that is `needed`, since
    gradients of any length come down.
    """
    rate = clients.number("downlink_rate_bps")
    missing = np.flatnonzero(np.isnan(rate))
    if len(missing) and (needed or len(missing) < len(rate)):
        where = f"downlink_rate_bps of client {clients.names[missing[0]]}"
        remedy = "gradient_bits > 0 needs it" if needed else "give it for all clients or for none"
        raise InputError(where, "missing", "a number above 0", remedy)
    return None if len(missing) else rate


def _is_word(value: Any) -> bool:
    """A name: text, or a number that stands for one."""
    return isinstance(value, str | int | np.integer) and not isinstance(value, bool)


def _columns(clients: Any, where: str) -> dict[str, Any]:
    """Key -> one entry per client (None where absent); columns given as arrays pass through."""
    if isinstance(clients, Mapping):
        return dict(clients)
    if not isinstance(clients, Sequence) or isinstance(clients, str) or not len(clients):
        raise InputError(where, clients, "a list with at least one client")
    keys: dict[str, None] = {}
    for index, client in enumerate(clients):
        if not isinstance(client, Mapping):
            raise InputError(f"{where}[{index}]", client, "a mapping of keys to values")
        keys.update(dict.fromkeys(client))
    return {key: [client.get(key) for client in clients] for key in keys}


def _count(clients: Any, where: str) -> int:
    """How many clients there are: the length of the list, or of the first array among columns."""
    if not isinstance(clients, Mapping):
        return len(clients)
    columns = list(clients.values())
    while columns:
        column = columns.pop(0)
        if isinstance(column, Mapping):
            columns += column.values()
        elif isinstance(column, list | tuple | np.ndarray) and np.ndim(column[0]) == 0:
            return len(column)
    raise InputError(where, "a mapping without arrays", "a list of clients, or columns of arrays")
