"""Advice on an experiment, without training: which methods fit, what they take, what would help.

Every number is that of rounds which are planned and charged by the code of a run
(`advising.draws`); a suggestion's effect is the same computation on the changed experiment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from airtune.advising.answer import Advice, LeftOut, MethodAdvice, Suggestion, total_s
from airtune.advising.arms import Arm, arms_of
from airtune.advising.changes import Change, changes_of
from airtune.advising.draws import DrawnRound, draw_rounds, uses_reports
from airtune.advising.opening import Opened, Opener
from airtune.advising.summary import binding, job_of, round_spreads, tightest
from airtune.config.experiment import MOST_ROUNDS, ExperimentConfig, with_settings
from airtune.config.text import plain_values
from airtune.errors import AirtuneError, InfeasibleError, InputError
from airtune.experiment import Experiment
from airtune.experiment.reading import check_filled
from airtune.experiment.unused import refuse_unused
from airtune.methods.registry import find_method

DRAWS = 50
MOST_DRAWS = 10_000
NOTHING = 1e-6
"""A latency that changes by a smaller share of itself does not change."""


def advise(
    experiment: Experiment | Path | str | None = None,
    *,
    deadline_s: float | None = None,
    rounds: int | None = None,
    methods: Sequence[str] | None = None,
    draws: int = DRAWS,
) -> Advice:
    """What each method takes on the experiment's cell and devices, and what would help most.

    Args:
        experiment: an experiment, or its file; None is the built-in one.
        deadline_s: of the whole job [s].
        rounds: of the job; None: those of the experiment.
        methods: in the syntax of `airtune compare --methods`; None: the experiment's own and every
            other federated one.
        draws: channels to look at, those of the experiment's first rounds.

    A method that does not fit is an answer. Raises what a run of the experiment itself raises for
    its keys, files and parts, and InputError for the arguments.
    """
    if not isinstance(experiment, Experiment):
        experiment = Experiment.load(experiment)
    _check(deadline_s, rounds, draws)
    config = experiment.config
    if config.pacing.kind != "synchronous":
        raise InputError(
            "pacing.kind",
            config.pacing.kind,
            "synchronous for advice, which is on rounds",
            "leave out the section pacing, or look at airtune run",
        )
    if rounds is not None:
        config = config.model_copy(update={"rounds": rounds})
    return _Adviser(config, deadline_s, rounds is not None, draws).answer(methods)


def _check(deadline_s: float | None, rounds: int | None, draws: int) -> None:
    if deadline_s is not None and not 0 < deadline_s < math.inf:
        raise InputError("deadline_s", deadline_s, "a positive number of seconds")
    for field, value, most in (("rounds", rounds, MOST_ROUNDS), ("draws", draws, MOST_DRAWS)):
        if value is not None and not 1 <= value <= most:
            raise InputError(field, value, f"from 1 to {most}")


@dataclass(frozen=True)
class _Adviser:
    """One question: the experiment with the wanted rounds, and what is the same for all methods."""

    config: ExperimentConfig
    deadline_s: float | None
    asked_rounds: bool
    draws: int

    def answer(self, methods: Sequence[str] | None) -> Advice:
        opener = Opener(self.draws)
        # Whatever is asked for, the experiment is refused as a run of it is.
        loaded = opener.load(self.config)
        arms = arms_of(self.config, methods)
        entries = [self._advice(opener, arm) for arm in arms]
        seen = max((len(entry.round_latencies_s) for entry in entries), default=0) or self.draws
        suggestions, left_out = _Suggestions(self, opener, arms, entries).found()
        charged = self.config.charge_as or self.config.model
        return Advice(
            model=self.config.model,
            charged_model=charged,
            clients=self.config.clients.count,
            seed=self.config.seed,
            draws=seen,
            drawn=f"the channels of rounds 1 to {seen} of this experiment, seed {self.config.seed}",
            deadline_s=self.deadline_s,
            methods=entries,
            suggestions=suggestions,
            left_out=left_out,
            notices=[*loaded.notices, *_of_stop(self.config)],
        )

    def _advice(self, opener: Opener, arm: Arm) -> MethodAdvice:
        """One method; what refuses it is its reason, but for the experiment's own parts."""
        method = arm.config.method
        try:
            opened = opener.compose(opener.load(arm.config))
        except AirtuneError as error:
            if arm.is_own:
                raise
            return MethodAdvice(arm.name, method, False, _reason(error))
        try:
            return self.measured(arm.name, opened)
        except AirtuneError as error:
            return MethodAdvice(arm.name, method, False, _reason(error))

    def measured(self, name: str, opened: Opened) -> MethodAdvice:
        """The numbers of an opened experiment; raises where it is not feasible."""
        opened.refuse_small_devices()
        opened = opened.settled()
        drawn = draw_rounds(opened, self.draws)
        _refuse_idle(drawn)
        config, devices = opened.config, opened.context.devices
        rounds, source = self._rounds(config)
        return MethodAdvice(
            name=name,
            method=config.method,
            feasible=True,
            round=round_spreads(drawn),
            job=job_of(drawn, rounds, source, self.deadline_s, config.seed),
            memory=tightest(drawn, devices),
            binds=binding(drawn, devices),
            planned_first_round_s=_first_planned(drawn),
            idle_share=sum(one.straggler is None for one in drawn) / len(drawn),
            round_latencies_s=[one.latency_s for one in drawn],
            notes=[*opened.notices, *_notes(config, opened)],
        )

    def _rounds(self, config: ExperimentConfig) -> tuple[int, str]:
        """How many rounds the job has, and where that number comes from."""
        spec = find_method(config.method)
        known = None if self.asked_rounds else spec.rounds_to_target(config)
        if known is not None:
            return math.ceil(known[0]), known[1]
        return config.rounds, "asked for" if self.asked_rounds else "the experiment's rounds"


def _reason(error: AirtuneError) -> str:
    """What is wrong, without what to do about it: that is what suggestions are for."""
    if isinstance(error, InputError) and error.remedy:
        return str(error).partition(f": {error.remedy.rstrip('.')}")[0] + "."
    return str(error)


def _refuse_idle(drawn: Sequence[DrawnRound]) -> None:
    if all(one.straggler is None for one in drawn):
        reasons = sorted({reason for one in drawn for reason in one.skipped.values()})
        raise InfeasibleError(
            f"None of the {len(drawn)} rounds looked at has a client to schedule "
            f"({'; '.join(reasons[:3])})."
        )


def _first_planned(drawn: Sequence[DrawnRound]) -> float | None:
    """The planned latency of the first round with a client, which a dry run shows [s]."""
    return next((one.planned_latency_s for one in drawn if one.straggler is not None), None)


def _notes(config: ExperimentConfig, opened: Opened) -> list[str]:
    """What is assumed for this method."""
    spec = find_method(config.method)
    notes = [
        f"{config.method} settles {stage.name.replace('-', ' ')} before round 1, which is not done "
        "here: the keys are taken as they stand."
        for stage in spec.offline
        if stage.wanted(config.section(spec.options))
    ]
    if uses_reports(opened.context.method.planner):
        notes.append(
            f"{config.method} plans with what clients report of their training; here every round "
            "is planned as before the first report."
        )
    return notes


def _of_stop(config: ExperimentConfig) -> list[str]:
    given = config.stop.model_dump(exclude_none=True)
    names = ", ".join(f"stop.{key}" for key in given)
    return [f"{names} may end a run before its last round, which is not counted."] if given else []


class _Suggestions:
    """Changes of one method's experiment, each measured like the method itself."""

    def __init__(
        self,
        adviser: _Adviser,
        opener: Opener,
        arms: Sequence[Arm],
        entries: Sequence[MethodAdvice],
    ) -> None:
        self._adviser, self._opener = adviser, opener
        self._arms = {arm.name: arm for arm in arms}
        self._entries = list(entries)
        self._suggestions: list[Suggestion] = []
        self._left_out: list[LeftOut] = []

    def found(self) -> tuple[list[Suggestion], list[LeftOut]]:
        """Of the first method asked for, and of the best one where the first is not feasible."""
        first = self._entries[0]
        self._another_method(first)
        self._try_all(first)
        best = min(self._entries, key=total_s)
        if not first.feasible and best.feasible:
            self._try_all(best)
        return sorted(self._suggestions, key=_most_first), self._left_out

    def _another_method(self, first: MethodAdvice) -> None:
        """The method whose job is shortest, if it is another one.

        None that sends seeded coefficients in place of one that sends what was trained.
        """
        alike = [entry for entry in self._entries if self._seeded(entry) <= self._seeded(first)]
        best = min(alike, key=total_s)
        if best.job is None or best.name == first.name:
            return
        note = "it learns in another way: its rounds to a target loss are its own"
        change = Change(f"{best.name} in place of {first.name}", [], note)
        self._offer(first, change, self._arms[best.name].settings, best)

    def _seeded(self, entry: MethodAdvice) -> bool:
        return find_method(self._arms[entry.name].config.method).seeded

    def _try_all(self, base: MethodAdvice) -> None:
        arm = self._arms[base.name]
        for change in changes_of(arm.config):
            if change.helps in ("faster" if base.feasible else "fit", "both"):
                self._try(base, arm, change)

    def _try(self, base: MethodAdvice, arm: Arm, change: Change) -> None:
        reasons = []
        for way in change.ways:
            try:
                changed = _changed(arm.config, way)
                opened = self._opener.compose(self._opener.load(changed))
                after = self._adviser.measured(arm.name, opened)
            except AirtuneError as error:
                reasons.append(_reason(error))
                continue
            self._offer(base, change, (*arm.settings, *way), after)
            return
        self._left_out.append(LeftOut(base.name, change.what, reasons[-1]))

    def _offer(
        self, base: MethodAdvice, change: Change, settings: Sequence[str], after: MethodAdvice
    ) -> None:
        """A suggestion, unless it saves no time."""
        assert after.job is not None
        share = after.latency_s / base.latency_s - 1 if base.feasible else None
        if share is not None and share > -NOTHING:
            longer = f"a round takes {share:.2g} of its latency longer"
            reason = change.if_nothing if share < NOTHING else longer
            self._left_out.append(LeftOut(base.name, change.what, reason))
            return
        saved = total_s(after) - total_s(base) if base.job else None
        self._suggestions.append(
            Suggestion(
                name=base.name,
                what=change.what,
                settings=list(settings),
                latency_s=after.round["latency_s"],
                latency_change=share,
                total_s=total_s(after),
                total_change_s=saved,
                in_time=after.job.in_time,
                planned_first_round_s=after.planned_first_round_s,
                memory=after.memory,
                note=change.note,
            )
        )


def _most_first(one: Suggestion) -> tuple[float, float]:
    """The change that saves most time first; where nothing was feasible, the shortest job."""
    return (-math.inf if one.total_change_s is None else one.total_change_s), one.total_s


def _changed(config: ExperimentConfig, settings: Sequence[str]) -> ExperimentConfig:
    """The experiment with these `--set` values, refused where a run of it is."""
    changed = check_filled(with_settings(plain_values(config, given=True), settings))
    refuse_unused(changed)
    return changed
