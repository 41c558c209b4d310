"""Resuming a run: the experiment as wanted now, compared with the fingerprint in its checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airtune import part_folders
from airtune.config.experiment import (
    MOST_ROUNDS,
    ExperimentConfig,
    StopSection,
    parse_setting,
    with_settings,
)
from airtune.errors import AirtuneError, InputError
from airtune.experiment.digests import ACCEPT, refusal, result_keys
from airtune.experiment.environment import Sessions
from airtune.experiment.reading import check_filled
from airtune.experiment.run import Run
from airtune.experiment.world import World
from airtune.federated.records.carried import CarriedStates
from airtune.federated.records.checkpoint import (
    Checkpoint,
    NewerFormatError,
    RecordsMark,
    ServerState,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
)
from airtune.federated.records.fingerprint import (
    Difference,
    Fingerprint,
    differing_contents,
    differing_keys,
)
from airtune.federated.records.run_folder import RunFolder
from airtune.tuning.base_change import load_whole

FIXED = ("method", "planner", "adapter.kind", "pacing.kind", "pacing.sharing")
"""Keys on which the state between rounds depends."""
UNKNOWN = (
    "This run was begun by an airtune that recorded neither its data nor its weights nor its "
    "keys: whether they are still the same cannot be checked."
)


@dataclass(frozen=True)
class Wish:
    """What a resumed run shall do differently: more rounds, or until so many, `key=value`
    settings, and whether other differences are accepted."""

    more_rounds: int = 0
    rounds: int | None = None
    settings: Sequence[str] = ()
    accept_changes: bool = False

    @property
    def lifts_stop(self) -> bool:
        """Whether a rule that stopped the run is lifted."""
        return bool(self.more_rounds) or self.rounds is not None


@dataclass
class Resumption:
    """A run folder being resumed; `config` is the experiment as wanted now.

    `checkpoint` is None for a run that was killed before its first. `changes` are the differences
    that were accepted or wanted, `told` the sentences for the user.
    """

    run: Run
    wish: Wish
    config: ExperimentConfig
    checkpoint: Checkpoint | None
    sessions: Sessions
    changes: list[Difference] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @classmethod
    def prepare(cls, run: Run, wish: Wish) -> "Resumption":
        """Read everything but model and data, and refuse what can be refused already."""
        folder = run.folder
        folder.clean()
        checkpoint, notes = _newest(folder, wish)
        config = _with_rounds(_with_settings(run, wish.settings), checkpoint, wish)
        sessions = Sessions.read(folder.path)
        part_folders.of_run(folder.path, sessions.parts)
        found = cls(run, wish, config, checkpoint, sessions, told=[*sessions.notes, *notes])
        if checkpoint is not None:
            found._check_records(checkpoint)
            found._compare_keys(checkpoint)
        return found

    @property
    def records_length(self) -> int:
        """Bytes of the records that the checkpoint counts on."""
        return self.checkpoint.records_length if self.checkpoint else 0

    @property
    def changed_file(self) -> bool:
        """Whether the run's experiment file has to change."""
        return self.config != self.run.config

    def state(self, world: World, known: Fingerprint) -> ServerState:
        """The state to continue from, once contents are compared; the records end with it."""
        folder, checkpoint = self.run.folder, self.checkpoint
        if checkpoint is None:
            return world.start()
        if checkpoint.fingerprint is not None:
            self._accept(differing_contents(checkpoint.fingerprint, known))
        else:
            self.told.append(UNKNOWN)
        # Refuses a checkpoint of another adapter, whatever was accepted.
        load_whole(world.model, checkpoint.state.adapter)
        if folder.records_length() > checkpoint.records_length:
            self.told.append(
                f"Records after round {checkpoint.state.rounds_done} have no whole checkpoint; "
                "those rounds are made again."
            )
        # Accepted records are counted again.
        sound = checkpoint.state.records.holds(folder.records)
        return checkpoint.state if sound else replace(checkpoint.state, records=RecordsMark())

    def _check_records(self, checkpoint: Checkpoint) -> None:
        folder = self.run.folder
        records = folder.read_records(checkpoint.records_length)
        last = max((entry.client for record in records for entry in record.clients), default=-1)
        if last >= self.config.clients.count:
            raise InputError(
                "clients.count",
                self.config.clients.count,
                f"at least {last + 1}, since client {last} took part in a round",
            )
        if not checkpoint.state.records.holds(folder.records):
            name = f"{folder.records.name}, as far as round {checkpoint.state.rounds_done},"
            self._accept([Difference(name, checkpoint.state.records.digest, "another")])

    def _compare_keys(self, checkpoint: Checkpoint) -> None:
        if checkpoint.fingerprint is None:
            return
        found = differing_keys(checkpoint.fingerprint.keys, result_keys(self.config))
        self._accept(found)

    def _accept(self, found: Sequence[Difference]) -> None:
        """Note differences that were wanted; refuse the others, unless all are accepted."""
        for change in found:
            if change.name in FIXED:
                raise AirtuneError(f"{change}, and it is the same in all rounds of a run.")
        recorded = self.sessions.accepted
        asked = [".".join(parse_setting(setting)[0]) for setting in self.wish.settings]
        if self.wish.more_rounds or self.wish.rounds is not None:
            asked.append("rounds")
        unasked = [
            change
            for change in found
            if not (change.is_key and any(f"{change.name}.".startswith(f"{key}.") for key in asked))
            and recorded.get(change.name) != [change.before, change.after]
        ]
        if unasked and not self.wish.accept_changes:
            raise refusal(self.run.folder.path, unasked)
        self.changes += found
        if unasked:
            self.told.append(
                f"Accepted: {'; '.join(map(str, unasked))}. Rounds to come rest on what is there "
                "now."
            )


def _newest(folder: RunFolder, wish: Wish) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to continue from; where clients' files are lost and that is accepted, without
    them."""
    length = folder.records_length()
    if not list_checkpoints(folder.checkpoints) and length == 0:
        return None, []
    try:
        return newest_checkpoint(folder.checkpoints, length)
    except NewerFormatError:
        raise
    except AirtuneError as error:
        found = _without_lost_states(folder, length, error)
        if wish.accept_changes:
            return found
        raise AirtuneError(
            f"{str(error).rstrip('.')}, or give {ACCEPT}, and clients whose files are lost begin "
            "afresh."
        ) from None


def _without_lost_states(
    folder: RunFolder, length: int, why: AirtuneError
) -> tuple[Checkpoint, list[str]]:
    for path in list_checkpoints(folder.checkpoints):
        try:
            checkpoint = read_checkpoint(path, verify_carried=False)
        except AirtuneError:
            continue
        carried = checkpoint.state.carried
        if checkpoint.records_length > length or not isinstance(carried, CarriedStates):
            continue
        lost = sorted(carried.unusable())
        state = replace(checkpoint.state, carried=carried.without(lost))
        names = ", ".join(map(str, lost))
        return replace(checkpoint, state=state), [
            f"What client {names} kept from round to round is lost, so it begins afresh."
        ]
    raise why


def _with_settings(run: Run, settings: Sequence[str]) -> ExperimentConfig:
    if not settings:
        return run.config
    return check_filled(with_settings(run.values, settings))


def _with_rounds(
    config: ExperimentConfig, checkpoint: Checkpoint | None, wish: Wish
) -> ExperimentConfig:
    """The experiment with the wanted number of rounds, or its own.

    More rounds count from those planned or, after an early stop, from those done.
    """
    more, until = wish.more_rounds, wish.rounds
    if not more and until is None:
        return config
    done = checkpoint.state.rounds_done if checkpoint else 0
    stopped = checkpoint is not None and checkpoint.state.stopped is not None
    rounds = (done if stopped else config.rounds) + more if until is None else until
    if rounds > MOST_ROUNDS:
        asked = f"+{more}" if until is None else until
        raise InputError("--rounds", asked, f"{MOST_ROUNDS} rounds in all at most")
    if until is not None and until <= done:
        raise InputError(
            "--rounds",
            until,
            f"above the {done} rounds that are done",
            f"give +{until} for {until} rounds more",
        )
    changes: dict[str, Any] = {"rounds": rounds}
    if stopped:
        changes["stop"] = StopSection()
    return config.model_copy(update=changes)
