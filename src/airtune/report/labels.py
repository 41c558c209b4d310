"""What recorded fields are called in words, and the unit that each is shown in.

Fields that are not listed get their words from their name and their unit from its suffix, so that
a part of a user's own appears in the report without being known here.
"""

from dataclasses import dataclass

DIMENSIONLESS = "1"


@dataclass(frozen=True)
class Quantity:
    """`scale` turns a recorded value into the shown unit."""

    label: str
    unit: str
    scale: float = 1.0

    @property
    def axis(self) -> str:
        """`bandwidth [MHz]`; a number without a unit is only named."""
        return self.label if self.unit == DIMENSIONLESS else f"{self.label} [{self.unit}]"


KNOWN = {
    "bandwidth_hz": Quantity("bandwidth", "MHz", 1e-6),
    "rate_bps": Quantity("uplink rate", "Mbit/s", 1e-6),
    "pruning_rate": Quantity("pruning rate", "share removed"),
    "sparsity": Quantity("sparsity", "share removed"),
    "rank": Quantity("LoRA rank", "ranks"),
    "split_point": Quantity("blocks on the client", "blocks"),
    "tx_power_w": Quantity("transmit power", "mW", 1e3),
    "main_subchannels": Quantity("subchannels to the main server", "count"),
    "federated_subchannels": Quantity("subchannels to the federated server", "count"),
    "main_psd_w_per_hz": Quantity("power density to the main server", "nW/Hz", 1e9),
    "federated_psd_w_per_hz": Quantity("power density to the federated server", "nW/Hz", 1e9),
    "kept_ranks": Quantity("kept ranks of a matrix (mean)", "ranks"),
    "objective": Quantity("objective of the round", "s²"),
    "objective_lower_bound": Quantity("its proven lower bound", "s²"),
    "cosine_a": Quantity("mean |cos| of the rows of A", "1"),
    "cosine_b": Quantity("mean |cos| of the columns of B", "1"),
    "planned_dropped_energy": Quantity("energy not sent, as planned", "share"),
    "update_energy": Quantity("the update", "1"),
    "dropped_energy": Quantity("what was not sent", "1"),
    "covariance_energy": Quantity("covariance of the factors", "1"),
}
SUFFIXES = {
    "_w_per_hz": ("nW/Hz", 1e9),  # before _hz, which it also ends with
    "_s": ("s", 1.0),
    "_hz": ("MHz", 1e-6),
    "_bps": ("Mbit/s", 1e-6),
    "_bits": ("MB", 1e-6 / 8),
    "_bytes": ("MB", 1e-6),
    "_j": ("J", 1.0),
    "_w": ("W", 1.0),
    "_m": ("m", 1.0),
    "_db": ("dB", 1.0),
    "_dbm": ("dBm", 1.0),
    "_share": ("share", 1.0),
    "_rate": ("share", 1.0),
    "_count": ("count", 1.0),
    "_loss": ("nat", 1.0),
    "flops": ("GFLOP", 1e-9),
}


def quantity(key: str) -> Quantity:
    """Words and unit of a recorded field; dots of nested fields become words."""
    name = key.rpartition(".")[2]
    if key in KNOWN or name in KNOWN:
        return KNOWN.get(key, KNOWN.get(name, Quantity(key, DIMENSIONLESS)))
    for suffix, (unit, scale) in SUFFIXES.items():
        if name.endswith(suffix) or name == suffix[1:]:
            # A share or a loss says what it is; a unit does not belong to the words.
            words = key if suffix in ("_rate", "_share", "_loss", "flops") else (
                key.removesuffix(suffix)
            )  # fmt: skip
            return Quantity(_words(words), unit, scale)
    return Quantity(_words(key), DIMENSIONLESS)


def _words(key: str) -> str:
    return key.replace(".", ": ").replace("_", " ")


def span(largest: float, unit: str) -> Quantity:
    """The multiple of a unit in which a cumulative axis up to `largest` reads well.

    `unit` is `s`, `B`, `J` or `FLOP`; the label is empty.
    """
    if unit == "s":
        steps = [(1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d")]
        enough = 3.0
    else:
        prefixes = ("", "k", "M", "G", "T", "P", "E")
        steps = [(10.0 ** (3 * power), prefix + unit) for power, prefix in enumerate(prefixes)]
        enough = 1.0
    factor, name = max((step for step in steps if largest >= enough * step[0]), default=steps[0])
    return Quantity("", name, 1.0 / factor)
