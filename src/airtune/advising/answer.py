"""What `advise` answers: typed, and as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

LOW, HIGH = 10, 90
"""Percentiles that are shown beside a mean."""
QUANTITIES = {
    "latency_s": ("latency", "s"),
    "uplink_bytes": ("sent up", "B"),
    "downlink_bytes": ("sent down", "B"),
    "energy_j": ("clients' energy", "J"),
}
"""What a round costs: key -> words and unit. Bytes and energy are those of all clients."""


@dataclass(frozen=True)
class Spread:
    """The mean of a quantity, and its 10th and 90th percentiles."""

    mean: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value a draw; percentiles between two values are interpolated."""
        low, high = np.percentile(values, (LOW, HIGH))
        return cls(float(np.mean(values)), float(low), float(high))


@dataclass(frozen=True)
class Memory:
    """Peak memory of the client with the least room, the largest of all draws [byte]."""

    client: int
    device: str
    needed_bytes: float
    usable_bytes: float


@dataclass(frozen=True)
class Job:
    """The whole job: `rounds` and where that number comes from, each quantity over all of them.

    The mean is `rounds` times that of a round; percentiles are those of sums of so many rounds,
    drawn in stretches of consecutive ones. `in_time`: the mean ends by the deadline; None without
    one. `rounds_that_fit` end by it.
    """

    rounds: int
    rounds_source: str
    totals: Mapping[str, Spread]
    in_time: bool | None = None
    rounds_that_fit: int | None = None


@dataclass(frozen=True)
class Binding:
    """What a round waits for.

    Attributes:
        stages: share of the latency that the straggler spends in each stage, over all draws.
        stragglers: client -> share of the draws in which the round waits for it.
        devices: the same by device profile.
        furthest_behind: stage -> share of the draws in which the straggler is furthest behind the
            median client there.
    """

    stages: Mapping[str, float]
    stragglers: Mapping[int, float]
    devices: Mapping[str, float]
    furthest_behind: Mapping[str, float]


@dataclass(frozen=True)
class MethodAdvice:
    """One method on the experiment's cell and devices.

    `name` is what `--methods` calls it, `method` the method itself. Where it is not `feasible`,
    `reason` says why in a sentence, and there are no numbers. `round_latencies_s` has every draw's
    latency, from round 1; `planned_first_round_s` is what `airtune run --dry-run` shows.
    """

    name: str
    method: str
    feasible: bool
    reason: str = ""
    round: Mapping[str, Spread] = field(default_factory=dict)
    job: Job | None = None
    memory: Memory | None = None
    binds: Binding | None = None
    planned_first_round_s: float | None = None
    idle_share: float = 0.0
    round_latencies_s: Sequence[float] = ()
    notes: Sequence[str] = ()

    @property
    def latency_s(self) -> float:
        """Mean latency of a round; infinite where the method is not feasible."""
        return self.round["latency_s"].mean if self.feasible else float("inf")


@dataclass(frozen=True)
class Suggestion:
    """One change of the experiment, and what the method `name` takes with it on the same channels.

    `settings` are `--set` values that make it. `latency_s` is a round's, `total_s` the mean of the
    whole job in as many rounds; changes are relative to the method as it is, negative where it is
    faster, None where it was not feasible. `in_time` and `memory` are those after the change.
    """

    name: str
    what: str
    settings: Sequence[str]
    latency_s: Spread
    latency_change: float | None
    total_s: float
    total_change_s: float | None
    in_time: bool | None
    planned_first_round_s: float | None
    memory: Memory | None
    note: str = ""

    @property
    def command(self) -> str:
        """The options of `airtune run` that apply it."""
        from shlex import quote

        return " ".join(f"--set {quote(setting)}" for setting in self.settings)


@dataclass(frozen=True)
class LeftOut:
    """A change that is no suggestion, and why."""

    name: str
    what: str
    reason: str


@dataclass(frozen=True)
class Advice:
    """The answer of `advise`.

    Attributes:
        model: that is trained; `charged_model` the one that time and memory are charged for.
        draws: rounds that were looked at, and `drawn` in a sentence which.
        methods: in the order asked for, the experiment's own first.
        suggestions: most time saved first; what was tried besides is in `left_out`.
    """

    model: str
    charged_model: str
    clients: int
    seed: int
    draws: int
    drawn: str
    deadline_s: float | None
    methods: Sequence[MethodAdvice]
    suggestions: Sequence[Suggestion] = ()
    left_out: Sequence[LeftOut] = ()
    notices: Sequence[str] = ()

    @property
    def best(self) -> MethodAdvice | None:
        """The feasible method whose job is shortest; None where none is."""
        known = [entry for entry in self.methods if entry.job is not None]
        return min(known, key=total_s, default=None)

    @property
    def possible(self) -> bool:
        """Whether any method is feasible, within the deadline where there is one."""
        return any(
            entry.job is not None and entry.job.in_time is not False for entry in self.methods
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as mappings, lists and scalars; what `airtune advise --json` prints."""
        plain = asdict(self)
        for entry, suggestion in zip(plain["suggestions"], self.suggestions, strict=True):
            entry["command"] = suggestion.command
        best = self.best
        plain["best"] = None if best is None else best.name
        plain["possible"] = self.possible
        found: dict[str, Any] = _plain(plain)
        return found

    def _repr_html_(self) -> str:
        return str(self.to_frame()._repr_html_())

    def to_frame(self) -> "pd.DataFrame":
        """One row a method; columns as `latency_s`, `latency_s_p10`, `total_latency_s`."""
        import pandas as pd

        return pd.DataFrame([_row(entry) for entry in self.methods])


def total_s(entry: MethodAdvice) -> float:
    """Mean time of the whole job; infinite where the method is not feasible."""
    return entry.job.totals["latency_s"].mean if entry.job else float("inf")


def _plain(value: Any) -> Any:
    """JSON has texts as keys and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _row(entry: MethodAdvice) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entry.name, "feasible": entry.feasible, "reason": entry.reason}
    for key, spread in entry.round.items():
        row |= {key: spread.mean, f"{key}_p10": spread.p10, f"{key}_p90": spread.p90}
    if entry.job is not None:
        row |= {"rounds": entry.job.rounds, "in_time": entry.job.in_time}
        row |= {"rounds_that_fit": entry.job.rounds_that_fit}
        row |= {f"total_{key}": spread.mean for key, spread in entry.job.totals.items()}
    if entry.memory is not None:
        row |= {"memory_bytes": entry.memory.needed_bytes, "memory_client": entry.memory.client}
    return row
