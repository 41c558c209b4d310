"""E(r): the rounds to a target loss by LoRA rank, as `airtune rank-search` writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airtune.errors import InputError
from airtune.files import read_yaml_mapping
from airtune.planning.sections import COUNT, POSITIVE
from airtune.ranges import is_number

FIELD = "sflllm.rounds_table"


@dataclass(frozen=True)
class RoundsTable:
    """Rank -> rounds, ascending. `fit_error` is the fit's root mean square over the mean, None
    where the rounds are as measured or given."""

    rounds: Mapping[int, float]
    fit_error: float | None = None


def read_rounds(source: str | Mapping[Any, Any]) -> RoundsTable:
    """A table given as {rank: rounds}, or the file of a rank search (json or yaml).

    Of a search, the fitted rounds of every rank are taken or, without a fit, those measured; ranks
    that did not reach the target are then left out. Raises InputError for anything else.
    """
    if isinstance(source, Mapping):
        return RoundsTable(_checked(source))
    table = read_yaml_mapping(Path(source), FIELD)
    rows = table.get("ranks")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        return RoundsTable(_checked(table.get("rounds", table)))
    fitted = all(is_number(row.get("rounds_fitted")) for row in rows)
    key = "rounds_fitted" if fitted else "rounds_to_target"
    rounds = {row.get("rank"): row.get(key) for row in rows if row.get(key) is not None}
    return RoundsTable(_checked(rounds), table.get("rounds_fit_error") if fitted else None)


def _checked(table: Any) -> dict[int, float]:
    if not isinstance(table, Mapping) or not table:
        raise InputError(
            FIELD, table, "{rank: rounds}, or the .json or .yaml of airtune rank-search --out"
        )
    for rank, rounds in table.items():
        if not is_number(rank) or rank != rank // 1 or rank < 1:
            raise InputError(f"a rank in {FIELD}", rank, COUNT.words)
        if not is_number(rounds) or not POSITIVE.holds(rounds):
            raise InputError(f"rounds of rank {rank} in {FIELD}", rounds, POSITIVE.words)
    return {int(rank): float(table[rank]) for rank in sorted(table)}
