"""The end of a run: the adapter as a PEFT folder (or the tuned model), the summary, the report."""

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.config.text import resolved_yaml
from airtune.cost.device import DeviceProfile
from airtune.errors import AirtuneError, DivergedError, foreign_code, redacted
from airtune.experiment.card import Progress, model_card
from airtune.experiment.run import samples, score
from airtune.experiment.trained import FULL, write_result
from airtune.experiment.world import World
from airtune.federated.records.checkpoint import ServerState
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.files import write_json_atomic, write_text_atomic
from airtune.report.costs import SERVER_COSTS
from airtune.report.page import render
from airtune.report.view import RunView
from airtune.report.waiting import ending
from airtune.wireless.state import NO_CLIENTS

SAMPLE_TOKENS = 96
LIMITS = ("deadline_s", "radius_m", "pruning_budget", "latency_target_s")


def close_run(
    world: World,
    state: ServerState,
    folder: RunFolder,
    notices: Sequence[str] = (),
    diverged: DivergedError | None = None,
) -> None:
    """`finish`, and for a run that diverged the error, with the remedy.

    Raises AirtuneError where something cannot be written or made; a resumed run closes again.
    """
    try:
        with foreign_code("The closing of the run"):
            finish(world, state, folder, notices, diverged)
    except AirtuneError as error:
        raised = AirtuneError(
            f"{str(error).rstrip('.')}. Every finished round is kept: when that is mended, "
            f"`airtune resume {quote(str(folder.path))}` writes what is missing."
        )
        raised.details = error.details
        raise raised from error
    if diverged is not None:
        raise DivergedError(f"{diverged} {_way_on(world, state, folder)}") from diverged


def _way_on(world: World, state: ServerState, folder: RunFolder) -> str:
    """What there is after a run that diverged, and what resuming it would do."""
    done, path = state.rounds_done, quote(str(folder.path))
    if done == 0:
        return (
            "No round was finished, and `airtune resume` would end the same way: start a new run "
            "with other settings."
        )
    full = world.config.adapter.kind == FULL
    start = f"model={path}/model" if full else f"adapter.start={path}/adapter"
    return (
        f"Records, report and {'model' if full else 'adapter'} up to round {done} are in {path}. "
        f"`airtune resume` would make round {done + 1} again and end the same way: continue in a "
        f"new run with other settings and --set {start}."
    )


def finish(
    world: World,
    state: ServerState,
    folder: RunFolder,
    notices: Sequence[str] = (),
    diverged: DivergedError | None = None,
) -> None:
    """Write what a user takes away, `notices` included. Doing it twice gives the same files."""
    records = folder.read_records()
    card = model_card(world, Progress(state.start_loss, records, folder.deployment.exists()))
    write_result(world.config, world.base, world.model, world.tuned(state), card, folder)
    summary = summarise(world, state, records)
    if diverged is not None:
        summary["diverged"] = str(diverged)
    # What came from the environment is written nowhere.
    for key in ("model", "charge_as"):
        summary[key] = summary[key] and redacted(summary[key])
    summary["notices"] = [redacted(sentence) for sentence in notices]
    write_json_atomic(folder.path / "summary.json", summary)
    write_text_atomic(folder.path / "report.html", render(report_view(world, summary, records)))


def report_view(
    world: World, summary: Mapping[str, Any], records: Sequence[RoundRecord]
) -> RunView:
    """The run as its page shows it."""
    position_m = world.context.channel.observe(0, NO_CLIENTS).truth.position_m
    return RunView(
        summary=summary,
        records=records,
        names=world.context.names,
        position_m=[[float(x) for x in place[:2]] for place in position_m],
        weights=world.context.weights,
        limits=limits(world.config),
        experiment_yaml=resolved_yaml(world.config),
        shannon=has_shannon_rates(world.config),
    )


def has_shannon_rates(config: ExperimentConfig) -> bool:
    """Whether a client's rate is Shannon's formula of its bandwidth, not a table's or measured."""
    known = config.cell.trace is None and config.cell.replay is None
    return known and config.cell.rate_model == "shannon" and config.deploy.rates == "cell"


def limits(config: ExperimentConfig) -> dict[str, float]:
    """Constraints in force, by the name of their key: those of the method, deadline, radius."""
    found = dict(config.methods.get(config.method, ()))
    found |= {"deadline_s": config.deadline_s}
    if config.cell.is_drawn:
        found["radius_m"] = config.cell.radius_m
    return {key: float(found[key]) for key in LIMITS if found.get(key) is not None}


def summarise(world: World, state: ServerState, records: Sequence[RoundRecord]) -> dict[str, Any]:
    """The run in numbers, each from the records or measured here on the test set."""
    shown = samples(world, world.tuned(state), 1, SAMPLE_TOKENS)
    return summary_of_records(world.config, records, state.start_loss, world.devices) | {
        "partition_redraws": world.shards.redraws,
        "stopped": state.stopped,
        "scores": _scores(world, state),
        "virtual_time_s": state.clock.time_s,
        "energy_j": state.clock.energy_j,
        "sample": shown[0] if shown else None,
    }


def summary_of_records(
    config: ExperimentConfig,
    records: Sequence[RoundRecord],
    start_loss: float | None,
    devices: Sequence[DeviceProfile],
) -> dict[str, Any]:
    """What the rounds alone tell, for a run that may go on; nothing of the model's answers."""
    return {
        "model": config.model,
        "method": config.method,
        **({"trained": "every parameter"} if config.adapter.kind == FULL else {}),
        "charge_as": config.charge_as,
        "partition_redraws": 0,
        "rounds": len(records),
        "stopped": None,
        "start_test_loss": start_loss,
        "final_test_loss": records[-1].test_loss if records else start_loss,
        "scores": {},
        "virtual_time_s": records[-1].virtual_time_s if records else 0.0,
        "energy_j": sum(record.energy_j for record in records),
        "uplink_bits": sum(record.uplink_bits for record in records),
        "downlink_bits": sum(record.downlink_bits for record in records),
        **_of_main_server(records),
        **_idle(records),
        **ending(records, [device.name for device in devices]),
        "sample": None,
    }


def _of_main_server(records: Sequence[RoundRecord]) -> dict[str, float]:
    """Work and energy of the main server of a split model; no entries without one."""
    if all(record.server_s is None for record in records):
        return {}
    return {cost.key: sum(map(cost.of, records)) for cost in SERVER_COSTS}


def _scores(world: World, state: ServerState) -> dict[str, dict[str, float]]:
    before, judged = score(world, world.untrained)
    after, _ = score(world, world.tuned(state))
    return {
        name: {"before": before[name], "after": after[name], "examples": judged} for name in before
    }


def _idle(records: Sequence[RoundRecord]) -> dict[str, float]:
    """Rounds in which no client could send, and their time [s]; no entries without one."""
    waited = [record.idle_s for record in records if record.idle_s is not None]
    return {"idle_rounds": len(waited), "idle_s": sum(waited)} if waited else {}
