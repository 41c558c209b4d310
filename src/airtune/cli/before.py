"""Commands before a run: `airtune channel`, `airtune rank-search` and `airtune budget-search`."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.cli.run import Parts, Settings
from airtune.cli.text import page_width, text_table
from airtune.errors import InputError
from airtune.files import require_place, write_text_atomic

MOST_ROWS = 1_000_000
"""Rounds times clients in a file; a csv then has about 0.6 GB."""
MANY_ROUNDS = 1000


def channel(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The .csv or .npz file to write.")],
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", metavar="EXPERIMENT.yaml", help="Without it, the built-in."),
    ] = None,
    settings: Settings = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds.")] = 20,
    parts: Parts = None,
) -> None:
    """Write the drawn channels of an experiment; cell.replay and other programs read them."""
    from airtune.experiment.reading import read_config
    from airtune.experiment.unused import refuse_unused
    from airtune.files import require_place
    from airtune.part_folders import beside_experiment, name_folders
    from airtune.wireless.channel import open_channel
    from airtune.wireless.replay import check_recording_name

    check_recording_name(out, "FILE")
    require_place("FILE", out)
    if out.exists():
        raise InputError("FILE", str(out), "a new file", "choose another name, or remove it first")
    config = read_config(experiment, settings or ())
    refuse_unused(config)
    name_folders(parts or ())
    beside_experiment(experiment)
    clients = config.clients.count
    if rounds * clients > MOST_ROWS:
        raise InputError(
            "--rounds",
            rounds,
            f"at most {MOST_ROWS // clients} with {clients} clients",
            f"a file holds up to {MOST_ROWS:,} rounds times clients",
        )
    drawn = open_channel(config.cell, clients, config.seed)
    drawn.require_rounds(rounds)
    if rounds > MANY_ROUNDS:
        typer.echo(f"Drawing {rounds} rounds; this may take minutes.", err=True)
    drawn.export(out, range(rounds))
    typer.echo(
        f"Wrote {rounds} rounds of {clients} clients to {out}. "
        f"To run on them: airtune run --set {quote(f'cell.replay={out}')}"
    )


FORMATS = (".json", ".yaml", ".yml", ".csv")


def check_name(path: Path | None) -> None:
    """Refuse a name without the ending of a known format, and a place that does not exist, before
    the work that would fill it."""
    if path is None:
        return
    if path.suffix not in FORMATS:
        raise InputError("--out", str(path), f"a name that ends in {', '.join(FORMATS)}")
    require_place("--out", path)


def write_table(path: Path, table: Mapping[str, Any], rows: str) -> None:
    """Write a table by the ending of its name; a csv holds the rows alone, one a line."""
    check_name(path)
    if path.suffix == ".csv":
        text = _csv(table[rows])
    elif path.suffix == ".json":
        text = json.dumps(table, indent=2) + "\n"
    else:
        text = _yaml(table)
    write_text_atomic(path, text)


def _csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    columns = [key for key in rows[0] if not isinstance(rows[0][key], list)]
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _yaml(table: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(table), stream)
    return stream.getvalue()


if TYPE_CHECKING:
    from airtune.methods.spec import OfflineTable, Report

Rounds = Annotated[int, typer.Option(min=1, help="Rounds of each short run.")]
Target = Annotated[
    float | None, typer.Option("--target-loss", help="Test loss to reach; default: what all reach.")
]
Out = Annotated[Path | None, typer.Option(help="Write the table there: .json, .yaml or .csv.")]
Experiment = Annotated[
    Path | None,
    typer.Argument(metavar="[EXPERIMENT.yaml]", help="The experiment; without one, built in."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


def rank_search(
    experiment: Experiment = None,
    settings: Settings = None,
    ranks: Annotated[
        str | None, typer.Option(metavar="1,2,4", help="Candidate ranks; default: 1 to 32.")
    ] = None,
    rounds: Rounds = 3,
    clients: Annotated[int, typer.Option(min=1, help="Clients of each short run.")] = 4,
    target_loss: Target = None,
    out: Out = None,
    json: Json = False,
    parts: Parts = None,
) -> None:
    """Measure J(r) and the rounds E(r) of LoRA ranks in short runs, and name the best rank."""
    candidates = None if ranks is None else [int(x) for x in _numbers(ranks, "--ranks", whole=True)]
    options = (candidates, rounds, clients, target_loss)
    table = _searched("rank-search", experiment, settings, parts, options, out, json)
    _show(table.to_dict(), "ranks", out, json)
    if not json:
        typer.echo(f"Rank {table.best:g} has the least J.")


def budget_search(
    experiment: Experiment = None,
    settings: Settings = None,
    budgets: Annotated[
        str | None, typer.Option(metavar="0,0.2,0.4", help="Candidate budgets; default: 0 to 0.5.")
    ] = None,
    rounds: Rounds = 4,
    target_loss: Target = None,
    out: Out = None,
    json: Json = False,
    parts: Parts = None,
) -> None:
    """Measure time to a target loss for pruning budgets in short runs; name the fastest."""
    candidates = None if budgets is None else _numbers(budgets, "--budgets")
    options = (candidates, rounds, None, target_loss)
    table = _searched("budget-search", experiment, settings, parts, options, out, json)
    _show(table.to_dict(), "budgets", out, json)
    if not json:
        typer.echo(f"The pruning budget {table.best:g} is the fastest.")


def _searched(
    stage_name: str,
    experiment: Path | None,
    settings: list[str] | None,
    parts: list[Path] | None,
    options: tuple[Any, ...],
    out: Path | None,
    json: bool,
) -> "OfflineTable":
    """The stage's search; it runs the stage's method, whatever method the experiment names."""
    from airtune.experiment.reading import read_config
    from airtune.experiment.unused import refuse_unused
    from airtune.experiment.world import build_world
    from airtune.methods.registry import offline_stage
    from airtune.part_folders import beside_experiment, name_folders

    check_name(out)
    name_folders(parts or ())
    beside_experiment(experiment)
    config = read_config(experiment, settings or ())
    spec, stage = offline_stage(stage_name)
    refuse_unused(config.model_copy(update={"method": spec.name}))
    assert stage.search is not None
    return stage.search(config, build_world, *options, _reporter(json))


def _numbers(text: str, option: str, whole: bool = False) -> list[float]:
    from airtune.errors import InputError

    try:
        return [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise InputError(option, text, f"{kind} with commas between them") from None


def _reporter(quiet: bool) -> "Report":
    return (lambda sentence: None) if quiet else (lambda sentence: typer.echo(sentence, err=True))


def _show(table: dict[str, Any], rows: str, out: Path | None, json: bool) -> None:
    from json import dumps

    if out is not None:
        write_table(out, table, rows)
    if json:
        typer.echo(dumps(table, indent=2))
        return
    columns = [key for key in table[rows][0] if key != "losses"]
    cells = [[_cell(row[name]) for name in columns] for row in table[rows]]
    headings = [name.replace("_", " ") for name in columns]
    typer.echo(text_table(headings, cells, width=page_width()))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
