"""What recorded numbers are called in words, and the unit that each is shown in.

A record's fields and the numbers of the shipped methods declare both. Other numbers, of a
user-defined part, get their words from their name and their unit from its suffix.
"""

from functools import cache

from airtune.federated.records.fields import DIMENSIONLESS, Quantity, Shown, quantities
from airtune.federated.records.record import ClientRecord, RoundRecord
from airtune.methods.registry import recorded_numbers

SUFFIXES = {
    "_w_per_hz": "W/Hz",  # before _hz, which it also ends with
    "_s": "s",
    "_hz": "Hz",
    "_bps": "bit/s",
    "_bits": "bit",
    "_bytes": "B",
    "_j": "J",
    "_w": "W",
    "_m": "m",
    "_db": "dB",
    "_dbm": "dBm",
    "_share": "share",
    "learning_rate": DIMENSIONLESS,  # before _rate, which it also ends with
    "_rate": "share",
    "_count": "count",
    "_loss": "nat",
    "flops": "FLOP",
}


@cache
def _declared() -> dict[str, Quantity]:
    return {**quantities(RoundRecord), **quantities(ClientRecord), **recorded_numbers()}


def quantity(key: str) -> Quantity:
    """What a recorded number means; dots of nested names become words."""
    name = key.rpartition(".")[2]
    if name in _declared():
        return _declared()[name]
    for suffix, unit in SUFFIXES.items():
        if name.endswith(suffix) or name == suffix[1:]:
            # A share or a loss needs no unit; others have theirs outside the words.
            words = (
                key
                if suffix in ("learning_rate", "_rate", "_share", "_loss", "flops")
                else (key.removesuffix(suffix))
            )
            return Quantity(_words(words), unit)
    return Quantity(_words(key), DIMENSIONLESS)


def _words(key: str) -> str:
    return key.replace(".", ": ").replace("_", " ")


def span(largest: float, unit: str) -> Shown:
    """The multiple of a unit in which a cumulative axis up to `largest` reads well.

    `unit` is `s`, `B`, `J` or `FLOP`.
    """
    if unit == "s":
        steps = [(1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d")]
        enough = 3.0
    else:
        prefixes = ("", "k", "M", "G", "T", "P", "E")
        steps = [(10.0 ** (3 * power), prefix + unit) for power, prefix in enumerate(prefixes)]
        enough = 1.0
    factor, name = max((step for step in steps if largest >= enough * step[0]), default=steps[0])
    return Shown(name, 1.0 / factor)
