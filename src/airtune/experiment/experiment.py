"""An experiment: checked keys in, a run folder out; or a preview of it (`--dry-run`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from airtune import part_folders
from airtune.config.experiment import ExperimentConfig
from airtune.config.text import flat, plain_values, resolved_yaml
from airtune.data.memory import named_in_data
from airtune.errors import AirtuneError, DivergedError
from airtune.experiment.closing import close_run
from airtune.experiment.digests import fingerprint, own_trackers, user_parts
from airtune.experiment.engine import worker_host
from airtune.experiment.environment import Sessions
from airtune.experiment.listening import Listener, Listening
from airtune.experiment.loading import prepared
from airtune.experiment.notebook import with_progress
from airtune.experiment.offline import offline_stages
from airtune.experiment.paths import with_absolute_paths
from airtune.experiment.preview import preview
from airtune.experiment.reading import check_filled, default_experiment, read_config
from airtune.experiment.resuming import Resumption, Wish
from airtune.experiment.run import Run
from airtune.experiment.unused import refuse_unused
from airtune.experiment.world import Elsewhere, World, build_world
from airtune.federated.context import RoundStart
from airtune.federated.loop import StopRule, first_start, notice_of_wait, run_rounds
from airtune.federated.records.checkpoint import ServerState, newest_checkpoint
from airtune.federated.records.fingerprint import Difference
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.files import hide_filled, make_folder, write_json_atomic, write_text_atomic
from airtune.folder_lock import locked, reserved
from airtune.report.snippet import table_html
from airtune.trackers.reporting import Reporting
from airtune.trackers.shipped import open_trackers


def _named(keys: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What a program holds in memory, under the names that an experiment can have."""
    if tokenizer is not None or not isinstance(keys.get("model"), str | PurePath | None):
        # Not imported for a name: it needs torch.
        from airtune.tuning.kept_model import named_model

        keys = named_model(keys, tokenizer)
    return named_in_data(keys)


class Experiment:
    """A checked experiment. Keys are those of the experiment file, nested ones as mappings.

    `data.train` and `data.test` may be rows in memory as well (`airtune.keep_rows`), and `model` a
    loaded model of transformers beside its `tokenizer` (`airtune.keep_model`).

    Examples:
        >>> Experiment(rounds=3, cell={"bandwidth_hz": 5e6}).config.rounds
        3

    Raises:
        InputError: for anything wrong with a key; data, model and devices are checked by `run`.
    """

    def __init__(self, *, tokenizer: Any = None, **keys: Any) -> None:
        self.config = check_filled(_named(keys, tokenizer))
        refuse_unused(self.config)

    @classmethod
    def load(cls, path: Path | str | None = None, settings: Sequence[str] = ()) -> "Experiment":
        """Read an experiment file (None: the built-in experiment), with `key=value` settings."""
        experiment = cls.of(read_config(None if path is None else Path(path), settings))
        refuse_unused(experiment.config)
        part_folders.beside_experiment(None if path is None else Path(path))
        return experiment

    @classmethod
    def of(cls, config: ExperimentConfig) -> "Experiment":
        """An experiment that is checked already."""
        experiment = cls.__new__(cls)
        hide_filled(config._templates)
        experiment.config = config
        return experiment

    def _repr_html_(self) -> str:
        # Texts of the environment as templates: a notebook is a file, and may be shared.
        usual = dict(flat(plain_values(default_experiment())))
        keys = flat(plain_values(self.config))
        rows = [(key, str(value)) for key, value in keys if usual.get(key) != value]
        return table_html("airtune experiment (keys that are not at their default)", (), rows)

    def preview(self) -> dict[str, Any]:
        """What the first round would look like, without training."""
        open_trackers(self.config.report_to)
        return preview(build_world(self.config), self.config)

    def run(
        self,
        folder: Path | str,
        listener: Any = None,
        *,
        progress: bool | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> Run:
        """Run every round into a new folder.

        `listener` is a function of each round's record, an object with some methods of `Listener`,
        or a list of them. With `progress` a table grows below a notebook's cell (None: where there
        is a notebook). Clients `elsewhere` train on their own machines. Raises InputError for a
        folder in use; where anything is refused, nothing is left behind.
        """
        path, listener = Path(folder), Listening(with_progress(listener, progress))
        open_trackers(self.config.report_to)  # Refused before anything is loaded.
        with reserved(path):
            config, evidence = offline_stages(self.config, listener.notice)
            with _opened(config, elsewhere) as world:
                run_folder = RunFolder(path, fingerprint(world))
                state = world.start()
                first = first_start(world.context, state, config.rounds)
                _create(run_folder, world)
                files = {} if elsewhere is None else elsewhere.files
                for name, table in {**evidence, **files}.items():
                    write_json_atomic(path / name, table)
                run_folder.clean()
                for sentence in notice_of_wait(first, config.rounds):
                    listener.notice(sentence)
                return _run(world, state, run_folder, listener, Sessions.read(path), first)

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        more_rounds: int = 0,
        listener: Any = None,
        *,
        progress: bool | None = None,
        rounds: int | None = None,
        settings: Sequence[str] = (),
        accept_changes: bool = False,
        elsewhere: Elsewhere | None = None,
    ) -> Run:
        """Continue a run from its newest whole checkpoint, to the same bytes.

        With `more_rounds` it is made so many rounds longer, with `rounds` it ends after so many in
        all; a rule that stopped it is then lifted. `settings` (`key=value`) change keys for the
        rounds to come. Raises AirtuneError, which names them, for keys, data, weights and other
        contents that are not what the checkpoint remembers, unless `accept_changes`; either way
        the change is recorded. Raises InputError for rounds that are done.
        """
        listener = Listening(with_progress(listener, progress))
        run = Run.open(folder)
        if elsewhere is None and run.folder.deployment.exists():
            raise AirtuneError(
                f"The clients of {run.folder.path} are on other machines: go on with the same "
                "`airtune deploy server` or `flwr run` command that began it."
            )
        with locked(run.folder.path):
            wish = Wish(more_rounds, rounds, settings, accept_changes)
            resumption = Resumption.prepare(run, wish)
            open_trackers(resumption.config.report_to)
            with _opened(resumption.config, elsewhere, resolved=True) as world:
                return _resume(resumption, world, listener)


@contextmanager
def _opened(
    config: ExperimentConfig, elsewhere: Elsewhere | None, *, resolved: bool = False
) -> Iterator[World]:
    """The world, ready for rounds; worker processes import while it is loaded."""
    if elsewhere is not None:
        yield build_world(config, resolved=resolved, elsewhere=elsewhere)
        return
    with worker_host(prepared(config, resolved=resolved)) as host:
        yield build_world(config, resolved=resolved).with_engine(host)


def _resume(resumption: Resumption, world: World, listener: Listening) -> Run:
    run = resumption.run
    known = fingerprint(world)
    folder = RunFolder(run.folder.path, known)
    state = resumption.state(world, known)
    changed, longer = resumption.changed_file, world.config.rounds != run.config.rounds
    for sentence in resumption.told:
        listener.notice(sentence)
    if longer:
        _tell_schedule(world.config, listener)

    def change_files() -> None:
        if changed:
            write_text_atomic(folder.experiment, resolved_yaml(resolved(world)))
        folder.truncate_records(resumption.records_length)

    if resumption.wish.lifts_stop:
        state = replace(state, stopped=None)
    sessions, changes = resumption.sessions, resumption.changes
    return _run(world, state, folder, listener, sessions, None, changes, change_files)


def _tell_schedule(config: ExperimentConfig, listener: Listener) -> None:
    """Another number of rounds moves a decay; the rounds already made followed the first one."""
    if config.training.schedule != "constant":
        listener.notice(
            f"The rounds to come follow the {config.training.schedule} schedule of "
            f"{config.rounds} rounds, so the learning rate jumps first; a run planned for that "
            "many from the start would end elsewhere."
        )


def _run(
    world: World,
    state: ServerState,
    folder: RunFolder,
    listener: Listening,
    sessions: Sessions,
    first: RoundStart | None = None,
    changes: Sequence[Difference] = (),
    change_files: Callable[[], None] = lambda: None,
) -> Run:
    """Rounds and closing. What changes is recorded before `change_files` makes it so.

    `first` is a round that is planned already; it is used where it is the next one.
    """
    config = world.config
    if first is not None and first.costs.round_index != state.rounds_done:
        first = None
    said = (*world.notices, _unused_deploy(config, folder), _unwritten_templates(config))
    for sentence in (*said, sessions.other_versions()):
        if sentence:
            listener.notice(sentence)
    assert folder.fingerprint is not None
    sessions.begin(config, folder.fingerprint, _parts_used(config))
    sessions.add(state.rounds_done, changes, listener.told)
    change_files()
    if state.rounds_done == 0 or changes:
        state = folder.save(state)
    try:
        with _reporting(config, folder, listener) as trackers:
            trackers.started(state.rounds_done)
            listener.started(state.rounds_done, config.rounds, world.context.names)
            _rounds_and_closing(world, state, folder, listener, trackers, sessions, first)
    finally:
        sessions.tell(listener.told)
    return Run(folder.path)


def _rounds_and_closing(
    world: World,
    state: ServerState,
    folder: RunFolder,
    listener: Listening,
    trackers: Reporting,
    sessions: Sessions,
    first: RoundStart | None,
) -> None:
    config = world.config
    stop = StopRule(config.stop.target_loss, config.stop.virtual_time_s, config.stop.energy_j)
    diverged: DivergedError | None = None

    def tell(record: RoundRecord) -> None:
        listener.round_done(record)
        trackers.round_done(record)

    try:
        state = run_rounds(world.context, state, folder, config.rounds, stop, tell, first)
    except DivergedError as error:
        diverged = error
        state = newest_checkpoint(folder.checkpoints, folder.records_length())[0].state
    finally:
        world.context.backend.close()
        sessions.tell(listener.told)
    close_run(world, state, folder, [*world.result_notices, *sessions.changes()], diverged)


def _reporting(config: ExperimentConfig, folder: RunFolder, listener: Listening) -> Reporting:
    """The trackers of the run, which get its keys without what came from the environment."""
    others = config.methods.keys() - {config.method}
    values = {key: value for key, value in plain_values(config).items() if key not in others}
    trackers = open_trackers(config.report_to)
    return Reporting(trackers, folder, dict(flat(values)), config.clients.count, listener.notice)


def _unused_deploy(config: ExperimentConfig, folder: RunFolder) -> str:
    """A sentence where a simulated run has keys of a deployment; empty otherwise."""
    changed = config.deploy.model_dump(exclude_defaults=True)
    if not changed or folder.deployment.exists():
        return ""
    names = ", ".join(f"deploy.{key}" for key in changed)
    return f"{names}: used by `airtune deploy` alone, without effect in this simulated run."


def _unwritten_templates(config: ExperimentConfig) -> str:
    """What is not written, and what going on needs for it; nothing for nothing."""
    names = sorted({template for template, _ in config._templates.values()})
    if not names:
        return ""
    return (
        f"Not written into the run folder, and read from the environment by whatever goes on with "
        f"it: {', '.join(names)}."
    )


def _parts_used(config: ExperimentConfig) -> list[dict[str, Any]]:
    """User-defined parts and where they came from, for environment.json."""
    used = []
    for part in [*user_parts(config), *own_trackers(config)]:
        root = part_folders.root_of(part.name)
        if root is not None:
            part_folders.remember(root)
        used.append(
            {
                "part": part.field,
                "name": part.name,
                "folder": None if root is None else str(root),
                "file": None if part.file is None else str(part.file),
                "digest": part.digest,
            }
        )
    return used


def _create(folder: RunFolder, world: World) -> None:
    """The experiment comes first: from then on a killed run can be resumed."""
    make_folder("--out", folder.path)
    write_text_atomic(folder.experiment, resolved_yaml(resolved(world)))


def resolved(world: World) -> ExperimentConfig:
    """The experiment with what was chosen for the user, and paths that hold in any folder."""
    return with_absolute_paths(world.config)
