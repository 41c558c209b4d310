"""What a validation is asked for, and what it refuses."""

import sys
from dataclasses import dataclass
from typing import Literal, get_args

from airtune.config.experiment import ExperimentConfig
from airtune.deploy.links import LEAST_BPS, MOST_BPS, unavailable
from airtune.deploy.pin import LEAST_SHARE, cores, quota_unavailable
from airtune.errors import AirtuneError, InputError
from airtune.methods.registry import find_method
from airtune.methods.spec import refuse_changed_base

Computing = Literal["pinned", "quota", "emulated"]
COMPUTING: tuple[str, ...] = get_args(Computing)
QUOTA_OF_CORES = 0.7
"""Of the cores' time, what all clients have together; the rest is the server's and the links'."""


@dataclass(frozen=True)
class ComputingMode:
    """How clients compute: `share` of one core's time with a quota; `cores` of each client, and
    those of the server, where they are pinned."""

    kind: Computing
    share: float | None = None
    client_cores: tuple[int, ...] = ()
    server_cores: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """In words, for every output."""
        if self.kind == "pinned":
            return "computing measured, one core and one thread a client (pinned)"
        if self.kind == "quota":
            return f"computing measured, {self.share:.2g} of a core's time a client (quota)"
        return "computing EMULATED: clients train, then sleep to the modelled time"


def choose_computing(
    kind: str | None, share: float | None, clients: int, usable: list[int], no_quota: str | None
) -> ComputingMode:
    """The mode that was asked for, or the best that this machine has.

    Pinned where clients <= cores - 1, else with a quota where there are quotas, else emulated.
    `no_quota` is the reason why there are none. Raises InputError for a mode that cannot be had.
    """
    if kind is not None and kind not in COMPUTING:
        raise InputError("--computing", kind, f"one of {', '.join(COMPUTING)}")
    fits = clients <= len(usable) - 1
    chosen = kind or ("pinned" if fits else "quota" if no_quota is None else "emulated")
    if share is not None and chosen != "quota":
        raise InputError("--share", share, "given beside --computing quota alone")
    if chosen == "pinned":
        if not fits:
            raise InputError(
                "--computing",
                f"pinned with {clients} clients on {len(usable)} cores",
                "with at most as many clients as cores but one",
                "take quota or emulated, or fewer clients",
            )
        return ComputingMode("pinned", None, tuple(usable[:clients]), tuple(usable[clients:]))
    if chosen == "emulated":
        return ComputingMode("emulated")
    if no_quota is not None:
        raise InputError("--computing", f"quota ({no_quota.rstrip('.')})", "pinned or emulated")
    most = 1.0
    share = min(most, QUOTA_OF_CORES * len(usable) / clients) if share is None else share
    if not LEAST_SHARE <= share <= most:
        raise InputError(
            "--share",
            round(share, 3),
            f"a number from {LEAST_SHARE:g} to {most:g}",
            "fewer clients",
        )
    return ComputingMode("quota", share)


def computing_mode(kind: str | None, share: float | None, clients: int) -> ComputingMode:
    """`choose_computing` on this machine."""
    asked = kind in (None, "quota")
    return choose_computing(kind, share, clients, cores(), quota_unavailable() if asked else None)


def refuse_machine() -> None:
    """AirtuneError, in one sentence, where there can be no shaped links."""
    if not sys.platform.startswith("linux"):
        raise AirtuneError("airtune validate needs Linux: its links are network namespaces.")
    reason = unavailable()
    if reason is not None:
        raise AirtuneError(f"airtune validate cannot make its links here: {reason}")


def refuse_experiment(config: ExperimentConfig) -> None:
    """InputError for what a real round would not do as it is charged."""
    cell, method = config.cell, config.methods.get(config.method)
    wrong = (
        ("deadline_s", config.deadline_s, "left out", "clients do not stop in the middle of it"),
        ("charge_as", config.charge_as, "left out", "the model that is sent is the trained one"),
        ("cohort.dropout", config.cohort.dropout or None, "0", "clients here do not fail"),
        ("cell.round_trip_s", cell.round_trip_s or None, "0", "the links have no delay"),
        (
            "deploy.rates",
            None if config.deploy.rates == "cell" else config.deploy.rates,
            "cell",
            "the cell's rates are what is validated",
        ),
        ("deploy.pace", config.deploy.pace or None, "false", "the links keep the rates"),
        (
            "energy",
            "given" if config.energy.is_planned else None,
            "left out",
            "real machines are not slowed",
        ),
    )
    for key, value, instead, why in wrong:
        if value is not None:
            raise InputError(key, value, f"{instead} in a validation, since {why}")
    refuse_changed_base(find_method(config.method))
    if find_method(config.method).draws_cohort:
        raise InputError(
            "method",
            config.method,
            "one whose cohorts do not depend on the channel, in a validation",
            "its links are made before any client is drawn",
        )
    if not find_method(config.method).splits:
        return
    for key, allowed in (("server_side", ("shared",)), ("downlink", ("planned", "equal"))):
        value = getattr(method, key, None)
        if value not in (None, *allowed):
            words = " or ".join(allowed)
            raise InputError(f"{config.method}.{key}", value, f"{words} in a validation")


def refuse_rate(what: str, rate_bps: float) -> None:
    """InputError for a rate of a plan that no link can have."""
    if not LEAST_BPS <= rate_bps <= MOST_BPS:
        raise InputError(
            what,
            f"{rate_bps:g} bit/s",
            f"between {LEAST_BPS:g} and {MOST_BPS:g} bit/s",
            "change the cell",
        )
