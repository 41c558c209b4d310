"""An experiment: checked keys in, a run folder out."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

from airtune import __version__
from airtune.config import MOST_ROUNDS, ExperimentConfig, StopSection, check, read_config
from airtune.config_section import Section
from airtune.config_text import resolved_yaml
from airtune.config_unused import refuse_unused
from airtune.errors import DivergedError, InputError
from airtune.experiment.closing import close_run
from airtune.experiment.folder_lock import locked, reserved
from airtune.experiment.offline import offline_stages
from airtune.experiment.parts import make_importable
from airtune.experiment.preview import preview
from airtune.experiment.run import Run
from airtune.experiment.world import World, build_world
from airtune.federated.checkpoint import ServerState, list_checkpoints, newest_checkpoint
from airtune.federated.loop import StopRule, run_rounds
from airtune.federated.outlook import first_start, notice_of_wait
from airtune.federated.record import RunFolder
from airtune.files import make_folder, write_json_atomic, write_text_atomic
from airtune.tuning.adapter import load_state
from airtune.wireless.channel import channel_source

SectionT = TypeVar("SectionT", bound=Section)
REPORTED_PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "safetensors")


class Listener(Protocol):
    """Events of a run; the command line shows them. A listener may leave methods out."""

    def notice(self, sentence: str) -> None: ...
    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None: ...
    def round_done(self, record: dict[str, Any]) -> None: ...


class Silent:
    """No-op listener."""

    def notice(self, sentence: str) -> None: ...
    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None: ...
    def round_done(self, record: dict[str, Any]) -> None: ...


class _Heard:
    """A listener with the methods that it has; the others do nothing."""

    def __init__(self, listener: Any) -> None:
        names = ("notice", "started", "round_done")
        if listener is not None and not any(hasattr(listener, name) for name in names):
            raise InputError(
                "listener", listener, f"an object with at least one of {', '.join(names)}"
            )
        silent = Silent()
        self.notice = getattr(listener, "notice", silent.notice)
        self.started = getattr(listener, "started", silent.started)
        self.round_done = getattr(listener, "round_done", silent.round_done)


class Experiment:
    """A checked experiment. Keys are those of the experiment file, nested ones as mappings.

    >>> Experiment(rounds=3, cell={"bandwidth_hz": 5e6}).config.rounds
    3

    Raises InputError for anything wrong with a key; data, model and devices are checked by `run`.
    """

    def __init__(self, **keys: Any) -> None:
        self.config = check(ExperimentConfig, keys)
        refuse_unused(self.config)

    @classmethod
    def load(cls, path: Path | str | None = None, settings: Sequence[str] = ()) -> "Experiment":
        """Read an experiment file (None: the built-in experiment), with `key=value` settings."""
        experiment = cls.of(read_config(None if path is None else Path(path), settings))
        refuse_unused(experiment.config)
        # Parts of the user's own may live beside the experiment file, or where they run it.
        for folder in (Path.cwd(), *([Path(path).resolve().parent] if path else [])):
            make_importable(folder)
        return experiment

    @classmethod
    def of(cls, config: ExperimentConfig) -> "Experiment":
        """An experiment that is checked already."""
        experiment = cls.__new__(cls)
        experiment.config = config
        return experiment

    def preview(self) -> dict[str, Any]:
        """What the first round would look like, without training."""
        return preview(build_world(self.config))

    def run(self, folder: Path | str, listener: Any = None) -> Run:
        """Run every round into a new folder; `listener` has some methods of `Listener`.

        Raises InputError for a folder in use; where anything is refused, nothing is left behind.
        """
        path, listener = Path(folder), _Heard(listener)
        with reserved(path):
            config, evidence = offline_stages(self.config, listener.notice)
            world = build_world(config, trains=True)
            state = world.start()
            first = first_start(world.context, state, config.rounds)
            run_folder = RunFolder(path)
            _create(run_folder, world)
            for name, table in evidence.items():
                write_json_atomic(path / name, table)
            run_folder.clean()
            run_folder.save(state)
            for sentence in notice_of_wait(first, config.rounds):
                listener.notice(sentence)
            return _run(world, state, run_folder, listener)

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        more_rounds: int = 0,
        listener: Any = None,
        *,
        rounds: int | None = None,
    ) -> Run:
        """Continue a run from its newest whole checkpoint, to the same bytes.

        With `more_rounds` it is made so many rounds longer, with `rounds` it ends after so many in
        all; a rule that stopped it is then lifted. Raises InputError for rounds that are done.
        """
        listener = _Heard(listener)
        make_importable(Path.cwd())
        run = Run.open(folder)
        with locked(run.folder.path):
            config = _with_rounds(run, more_rounds, rounds)
            longer = config is not run.config
            world = build_world(config, trains=True, resolved=True)
            state = _restore(run.folder, world, listener)
            if longer:
                write_text_atomic(run.folder.experiment, resolved_yaml(config))
                _tell_schedule(config, listener)
                state = replace(state, stopped=None)
            return _run(world, state, run.folder, listener)


def _with_rounds(run: Run, more: int, until: int | None) -> ExperimentConfig:
    """The experiment with as many rounds as are asked for, its own where none are.

    `more` counts from those asked for or, after an early stop, from those done; `until` from none.
    """
    if not more and until is None:
        return run.config
    started = bool(list_checkpoints(run.folder.checkpoints))
    done = run.state.rounds_done if started else 0
    stopped = started and run.state.stopped is not None
    rounds = (done if stopped else run.config.rounds) + more if until is None else until
    if rounds > MOST_ROUNDS:
        asked = f"+{more}" if until is None else until
        raise InputError("--rounds", asked, f"{MOST_ROUNDS} rounds in all at most")
    if until is not None and until <= done:
        raise InputError(
            "--rounds", until, f"above the {done} rounds that are done",
            f"give +{until} for {until} rounds more",
        )  # fmt: skip
    if rounds == run.config.rounds and not stopped:
        return run.config
    changes: dict[str, Any] = {"rounds": rounds}
    if stopped:
        changes["stop"] = StopSection()
    return run.config.model_copy(update=changes)


def _tell_schedule(config: ExperimentConfig, listener: Listener) -> None:
    """Another number of rounds moves a decay; the rounds already made followed the first one."""
    if config.training.schedule != "constant":
        listener.notice(
            f"The rounds to come follow the {config.training.schedule} schedule of "
            f"{config.rounds} rounds, so the learning rate jumps first; a run planned for that "
            "many from the start would end elsewhere."
        )


def _restore(folder: RunFolder, world: World, listener: Listener) -> ServerState:
    """The newest usable state; a run killed before its first checkpoint begins again."""
    folder.clean()
    if not list_checkpoints(folder.checkpoints) and folder.records_length() == 0:
        state = world.start()
        folder.save(state)
        return state
    checkpoint, notes = newest_checkpoint(folder.checkpoints, folder.records_length())
    # Refuses the checkpoint of another adapter: an experiment.yaml that was changed by hand.
    load_state(world.model, dict(checkpoint.state.adapter))
    for note in notes:
        listener.notice(note)
    ahead = folder.records_length() - checkpoint.records_length
    if ahead:
        listener.notice(
            f"Records after round {checkpoint.state.rounds_done} have no whole checkpoint; "
            "those rounds are made again."
        )
    folder.truncate_records(checkpoint.records_length)
    return checkpoint.state


def _run(world: World, state: ServerState, folder: RunFolder, listener: Listener) -> Run:
    _note_environment(folder, world)
    config = world.config
    for sentence in world.notices:
        listener.notice(sentence)
    listener.started(state.rounds_done, config.rounds, world.context.names)
    stop = StopRule(config.stop.target_loss, config.stop.virtual_time_s, config.stop.energy_j)
    diverged: DivergedError | None = None
    try:
        state = run_rounds(world.context, state, folder, config.rounds, stop, listener.round_done)
    except DivergedError as error:
        diverged = error
        state = newest_checkpoint(folder.checkpoints, folder.records_length())[0].state
    finally:
        world.context.backend.close()
    close_run(world, state, folder, diverged)
    return Run(folder.path)


def _create(folder: RunFolder, world: World) -> None:
    """The experiment comes first: from then on a killed run can be resumed."""
    make_folder("--out", folder.path)
    write_text_atomic(folder.experiment, resolved_yaml(resolved(world)))


def _note_environment(folder: RunFolder, world: World) -> None:
    """What the run began with, unless it was killed before that was written."""
    path = folder.path / "environment.json"
    if path.exists():
        return
    write_json_atomic(
        path,
        {
            "airtune": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "seed": world.config.seed,
            "engine": world.config.engine,
            "threads": world.config.threads,
            "device": world.config.device,
            "channel": channel_source(world.config.cell),
            "packages": {name: version(name) for name in REPORTED_PACKAGES},
            "command": sys.argv[1:],
        },
    )


def resolved(world: World) -> ExperimentConfig:
    """The experiment with what was chosen for the user, and paths that hold in any folder."""
    return with_absolute_paths(world.config)


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Every name that exists as a path, made to hold in any folder."""
    sections = {
        "data": _with_paths(config.data, "train", "test"),
        "adapter": _with_paths(config.adapter, "start"),
        "clients": _with_paths(config.clients, "device_file"),
    }
    cell = replace(
        config.cell, trace=_absolute(config.cell.trace), replay=_absolute(config.cell.replay)
    )
    named = _with_paths(config, "model", "charge_as")
    return named.model_copy(update={**sections, "cell": cell})


def _with_paths(section: SectionT, *keys: str) -> SectionT:
    return section.model_copy(update={key: _absolute(getattr(section, key)) for key in keys})


def _absolute(name: Any) -> Any:
    """A name that exists as a path, made to hold in any folder; lists entry by entry."""
    if isinstance(name, str):
        return str(Path(name).resolve()) if name and Path(name).exists() else name
    return [_absolute(entry) for entry in name] if name is not None else None
