"""Which parts fit together: what a plan decides, the parts beside the planner must honour.

A composition that does not fit would train one thing and be charged for another, so it is refused
by name before anything is written; a plan that decides more than its planner declared is refused
before its round begins.
"""

from collections.abc import Mapping
from types import MappingProxyType

from airtune.errors import InputError
from airtune.federated.method import Method
from airtune.round_plan import Decision, Plan
from airtune.tuning.tuner import CohortTuner, Tuner

HONOURED_BY: Mapping[Decision, tuple[str, ...]] = {
    Decision.PRUNING: ("tuner", "codec", "aggregator"),
    Decision.SPARSITY: ("codec",),
    Decision.KEPT_RANKS: ("codec",),
    Decision.RANK: ("tuner", "codec", "aggregator"),
    Decision.SPLIT: ("tuner", "codec", "aggregator"),
    # Computing more slowly changes nothing of what is learned or sent.
    Decision.SPEED: (),
    Decision.SKETCH: ("tuner", "codec", "aggregator"),
    Decision.CUT_DROPOUT: ("tuner",),
    Decision.CUT_FORMAT: ("tuner",),
}
"""Decision -> the parts of a method that carry it out."""
PARTS = ("tuner", "codec", "aggregator")


def part_name(part: object) -> str:
    """What messages call a part without a name."""
    return type(part).__name__


def check_parts(method: Method, named: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raise InputError, naming the part, for a composition that does not fit together.

    `named`: what the experiment calls the parts that it names, by kind.
    """
    _Fit(method, named).check()


def check_decisions(method: Method, plan: Plan, rank: int, round_number: int) -> None:
    """Raise InputError for a decision in this plan that a part beside the planner ignores."""
    for entry in plan.clients:
        for decision in sorted(entry.decisions(rank)):
            for name in HONOURED_BY[decision]:
                if decision not in getattr(method, name).honours:
                    value = getattr(entry, decision.value)
                    raise InputError(
                        f"{decision} of client {entry.client} in round {round_number}",
                        value,
                        f"left as it is, since {name} {part_name(getattr(method, name))} does not "
                        "honour it",
                        f"replace the {name}, or planner {part_name(method.planner)}",
                    )


class _Fit:
    """One composition and what messages call its parts."""

    def __init__(self, method: Method, named: Mapping[str, str]) -> None:
        self.method = method
        kinds = ("planner", *PARTS, "downlink")
        self.names = {kind: part_name(getattr(method, kind)) for kind in kinds} | dict(named)

    def check(self) -> None:
        decides = self.method.planner.decides
        self.kind()
        self.halves()
        for name in PARTS:
            part = getattr(self.method, name)
            for decision in sorted(decides - part.honours):
                if name in HONOURED_BY[decision]:
                    self.refuse(name, f"one that honours {decision}")
            for decision in sorted(part.requires - decides):
                raise InputError(
                    "planner",
                    self.names["planner"],
                    f"one that decides {decision}",
                    f"{name} {self.names[name]} cannot work without it",
                )
        self.coverage()
        self.base()
        self.coefficients()
        self.unsent()
        self.shares()
        self.link()

    def refuse(self, name: str, allowed: str) -> None:
        raise InputError(
            name,
            self.names[name],
            f"{allowed}, beside planner {self.names['planner']}",
            f"choose another {name} or planner",
        )

    def kind(self) -> None:
        """A split needs a tuner made for it, and the servers that only its method has."""
        method, splits = self.method, Decision.SPLIT in self.method.planner.decides
        if splits != (method.split is not None):
            kind = "splits" if method.split else "does not split"
            raise InputError(
                "planner", self.names["planner"], f"one that {kind} the model, for {method.name}"
            )
        if isinstance(method.tuner, CohortTuner) != splits:
            raise InputError(
                "tuner",
                self.names["tuner"],
                f"one that {'splits' if splits else 'does not split'} the model, for {method.name}",
            )

    def halves(self) -> None:
        """Where client halves stay at the clients, planner and tuner must leave them there."""
        if not self.method.keeps_own:
            return
        for name in ("planner", "tuner"):
            if not getattr(self.method, name).keeps_own:
                raise InputError(
                    name,
                    self.names[name],
                    f"one that leaves client halves at the clients, for {self.method.name}",
                )

    def link(self) -> None:
        """What crosses the cut of a split model must be what its servers are charged with."""
        method = self.method
        if method.split is None or not isinstance(method.tuner, CohortTuner):
            return
        if not method.tuner.crosses_as(method.split):
            raise InputError(
                "tuner",
                self.names["tuner"],
                f"one with the number formats, labels and aggregation of {method.name}",
                "leave out the tuner: the method has its own",
            )
        if method.split.aggregation_ratio > 0 and getattr(method.planner, "own_cuts", False):
            raise InputError(
                "planner",
                self.names["planner"],
                f"one with the same split point for all clients, for {method.name}",
                "gradients are aggregated along one path, which begins at one cut",
            )

    def coverage(self) -> None:
        """What is trained must travel; what never travels must never change."""
        method = self.method
        for name in ("codec", "downlink"):
            lost = getattr(method, name).leaves_out - method.tuner.freezes
            if lost:
                raise InputError(
                    "tuner",
                    self.names["tuner"],
                    f"one that leaves {', '.join(sorted(lost))} untrained, since {name} "
                    f"{self.names[name]} does not send it",
                    "choose another tuner or codec",
                )
        still = method.downlink.leaves_out
        if still and not method.aggregator.keeps_unchanged:
            self.refuse(
                "aggregator", f"one that leaves {', '.join(sorted(still))} exactly as it is"
            )

    def base(self) -> None:
        """What is merged into the base must reach the clients."""
        method = self.method
        if method.aggregator.changes_base != method.downlink.carries_base:
            words = "merges into the base" if method.downlink.carries_base else "leaves the base"
            raise InputError(
                "aggregator",
                self.names["aggregator"],
                f"one that {words}, as the downlink of {method.name} has it",
                "leave out the aggregator, or choose the method that it belongs to",
            )

    def coefficients(self) -> None:
        """Coefficients on seeded directions: found by the tuner, sent, summed, and sent down."""
        method, names = self.method, self.names
        finds = isinstance(method.tuner, Tuner) and method.tuner.finds_coefficients
        if method.codec.takes_coefficients and not finds:
            what = f"one that finds the coefficients that codec {names['codec']} sends"
            self.refuse("tuner", what)
        sums = method.aggregator.sums_coefficients
        if sums and not method.codec.shares_directions:
            what = f"one whose coefficients aggregator {names['aggregator']} can sum"
            self.refuse("codec", what)
        if sums != method.downlink.carries_coefficients:
            words = "sums coefficients" if not sums else "leaves the broadcast as it is"
            self.refuse("aggregator", f"one that {words}, as the downlink of {method.name} has it")

    def unsent(self) -> None:
        """What was not sent must not count twice."""
        aggregator = self.method.aggregator
        if self.method.tuner.adds_unsent and aggregator.fills_unsent:
            raise InputError(
                "aggregator",
                self.names["aggregator"],
                "one that takes what was not sent as no change, together with error feedback",
                "it would count twice what was left out",
            )
        if self.method.tuner.adds_unsent and aggregator.refactors:
            raise InputError(
                "aggregator",
                self.names["aggregator"],
                "one that keeps the factors, together with error feedback",
                "what a client left out belongs to factors that the server has replaced",
            )

    def shares(self) -> None:
        """Shares that an aggregator does not use would be recorded and ignored."""
        weighting = self.method.weighting
        if weighting is not None and not self.method.aggregator.uses_shares:
            raise InputError(
                "aggregator",
                self.names["aggregator"],
                f"one that uses shares, since {part_name(weighting)} sets them",
                "choose another aggregator",
            )


def check_trains_any(method: Method, field: str) -> None:
    """Raise InputError for a part that works on LoRA's factors where every parameter is trained."""
    for name in PARTS:
        part = getattr(method, name)
        if part.on_factors:
            raise InputError(
                name, part_name(part), f"one that does not need LoRA's factors, with {field}"
            )
