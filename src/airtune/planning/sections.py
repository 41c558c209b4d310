"""What the sections of a problem file are made of: quantities, levels, and the shared keys.

Keys carry their unit. A linear key may be given in decibels instead: `tx_power_w` as
`tx_power_dbm`, `noise_psd_w_hz` as `noise_psd_dbm_hz`, `gain` as `gain_db`. A key without a value
(null) is as good as absent.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, model_validator

from airtune.config.experiment import AdapterSection, ClientsSection, TrainingSection
from airtune.errors import InputError
from airtune.quantities import FloatArray, db_to_linear, dbm_to_watts
from airtune.ranges import Numbers, Range
from airtune.section import Section, Word, Words, refused, spots
from airtune.wireless.budget import RateModel
from airtune.wireless.cell import CellSettings

LARGEST, SMALLEST = 1e50, 1e-50
"""A number of a problem beyond these is no quantity; within them, products stay finite."""
MOST_COUNTED = 10**15
"""Beyond it a float does not distinguish all whole numbers."""
LOUDEST_DB = 450.0
MOST_CLIENTS = 10_000
"""Of a cell; a list of clients may be longer."""

POSITIVE = Range(above=0, smallest=SMALLEST, largest=LARGEST)
NOT_NEGATIVE = Range(least=0, smallest=SMALLEST, largest=LARGEST)
SHARE = Range(least=0, most=1, smallest=SMALLEST)
LEVEL = Range(largest=LOUDEST_DB, infinity=-1, note=" of decibels (-.inf: nothing)")
COUNT = Range(least=1, whole=True, largest=MOST_COUNTED)

Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Share = Annotated[float, SHARE]
Level = Annotated[float, LEVEL]
Count = Annotated[int, COUNT]
Index = Annotated[int, Range(least=0, whole=True, largest=MOST_COUNTED)]
NotNegatives = Annotated[Any, Numbers(NOT_NEGATIVE)]
Dtype = Literal["fp32", "fp16", "bf16"]
BaseDtype = Literal["fp32", "fp16", "bf16", "nf4", "int8"]


def decibel_twin(key: str) -> tuple[str, Callable[[ArrayLike], FloatArray]]:
    """The logarithmic form of a linear key, and its conversion.

    >>> decibel_twin("tx_power_w")[0], decibel_twin("noise_psd_w_hz")[0], decibel_twin("gain")[0]
    ('tx_power_dbm', 'noise_psd_dbm_hz', 'gain_db')
    """
    if key.endswith("_w_hz"):
        return key.removesuffix("_w_hz") + "_dbm_hz", dbm_to_watts
    if key.endswith("_w"):
        return key.removesuffix("_w") + "_dbm", dbm_to_watts
    return key + "_db", db_to_linear


class ProblemSection(Section):
    """A section of a problem file.

    `levels` are the linear keys of which each has a decibel twin beside it, and which of the two is
    given is the user's choice; those of `needed_levels` cannot be left out.
    """

    null_is_absent = True
    from_texts = False
    levels: ClassVar[tuple[str, ...]] = ()
    needed_levels: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _check_levels(self) -> "ProblemSection":
        for key in self.levels:
            (twin, convert), known = decibel_twin(key), spots(type(self))[key]
            linear, decibels = getattr(self, key), getattr(self, twin)
            if decibels is None:
                if linear is None and key in self.needed_levels:
                    raise refused(key, "missing", f"{known.words}, or give {twin}")
                continue
            if linear is not None:
                raise refused(twin, decibels, f"left out beside {key}")
            if known.range and not known.range.holds(convert(decibels)):
                raise refused(twin, decibels, f"in watts {known.range.words}")
        return self

    def level(self, key: str, default: float = np.nan) -> float:
        """A linear quantity, from the key or its decibel twin."""
        twin, convert = decibel_twin(key)
        if getattr(self, twin) is not None:
            return float(convert(getattr(self, twin)))
        return default if getattr(self, key) is None else float(getattr(self, key))


class NumbersSection(ProblemSection):
    """What every problem in explicit numbers has at the top, beside its clients."""

    as_given = ("clients",)
    levels = ("noise_psd_w_hz",)

    method: str = Field(description="the planner")
    noise_psd_w_hz: Positive | None = Field(
        None, description="noise density at the receiver, noise figure included [W/Hz]"
    )
    noise_psd_dbm_hz: Level | None = Field(None, description="the same [dBm/Hz]")
    rate_model: RateModel = Field(
        "shannon",
        description="bit rate of clients with power and gain: shannon | cqi | cqi-256qam (where "
        "the planner takes a table of rates)",
    )

    def require_shannon(self) -> None:
        """Refuse a table of rates where a planner rests on Shannon's formula."""
        if self.rate_model != "shannon":
            raise InputError(
                "rate_model",
                self.rate_model,
                f"shannon for {self.method}",
                "its bounds rest on rates that are smooth and concave in bandwidth and power",
            )


class ClientSection(ProblemSection):
    """What every client of a problem in explicit numbers has."""

    name: Word | None = Field(None, description="of the client; null: its number, from 0")


class LinkedClient(ClientSection):
    """A client with one uplink: by power and gain, or by a spectral efficiency."""

    levels = ("tx_power_w", "gain")

    tx_power_w: NotNegative | None = Field(None, description="transmit power [W]")
    tx_power_dbm: Level | None = Field(None, description="transmit power [dBm]")
    gain: NotNegative | None = Field(None, description="power gain of the whole link")
    gain_db: Level | None = Field(None, description="power gain of the whole link [dB]")
    spectral_efficiency_bps_hz: NotNegative | None = Field(
        None, description="fixed rate per bandwidth, instead of power and gain [bit/s/Hz]"
    )


class WeightedClient(LinkedClient):
    """A client that counts by a weight."""

    weight: NotNegative = Field(
        1.0, description="what the client counts, most often its examples; divided by the sum"
    )


class _Derived(Section):
    """A section that a problem shares with an experiment, its values read as in a problem."""

    null_is_absent = True
    from_texts = False


class PlannedAdapter(_Derived, AdapterSection):
    kind: Annotated[Literal["lora"], Words("lora in a planning problem")] = Field(
        "lora", description="ranks and LoRA's factors are what the methods planned here divide"
    )
    rank_pattern: Annotated[
        dict[str, int], Field(max_length=0), Words("left out of a planning problem")
    ] = Field({}, description="every adapted matrix has adapter.rank in a planning problem")


class PlannedClients(_Derived, ClientsSection):
    count: Annotated[int, Range(least=1, most=MOST_CLIENTS, whole=True)] = Field(
        ClientsSection.model_fields["count"].default, description="number of clients"
    )


class WeightedClients(PlannedClients):
    examples: Annotated[Any, Numbers(POSITIVE, one=True)] = Field(
        None, description="training examples, one number or one per client; null: all alike"
    )


class PlannedTraining(_Derived, TrainingSection):
    """Of the steps' optimiser, only its memory counts in a plan; the other keys may stand here."""

    batch_size: Count = Field(description="examples a step")
    local_steps: Count = Field(description="optimiser steps of a client in a round")


CELL_KEYS = ("model", "adapter", "cell", "training")
"""Keys of which any one means that the numbers follow from a model and a cell."""


class CellSection(ProblemSection):
    """What every problem has that names a model, a cell and devices."""

    method: str = Field(description="the planner")
    model: str = Field("builtin", description="builtin, a bundled config, a folder or a file")
    dtype: BaseDtype = Field("fp32", description="dtype of the frozen base")
    compute_dtype: Dtype | None = Field(
        None, description="what products of an nf4 or int8 base run in; null: bf16"
    )
    adapter: PlannedAdapter = Field(default_factory=PlannedAdapter, description="what is trained")
    cell: CellSettings = Field(default_factory=CellSettings, description="the radio cell")
    clients: PlannedClients = Field(default_factory=PlannedClients, description="who trains it")
    training: PlannedTraining = Field(description="local training")
    tokens: Count = Field(description="tokens of an example, padding included")
    round: Annotated[Index | Literal["mean"], Words("a whole number of at least 0, or mean")] = (
        Field(0, description="the round whose channel is planned for; mean: without fading")
    )
    seed: Index = Field(0, description="of places, shadowing and fading")
    uplink_dtype: Dtype = Field("fp32", description="updates on the air")


class WeightedCell(CellSection):
    """The same with clients of different weight, to whom the whole adapter is broadcast."""

    clients: WeightedClients = Field(default_factory=WeightedClients, description="who trains it")
    downlink_dtype: Dtype = Field("fp32", description="the broadcast adapter on the air")
