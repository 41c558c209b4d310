"""`airtune validate`: the prediction of a plan against real rounds on shaped links."""

import json as json_text
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from airtune.cli.run import Parts, Quiet, Settings, next_free_folder
from airtune.errors import InputError

ROUNDS = 5


def validate(
    experiment: Annotated[
        Path | None,
        typer.Argument(metavar="[EXPERIMENT.yaml]", help="The experiment; without one, built in."),
    ] = None,
    settings: Settings = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds are measured.")] = ROUNDS,
    computing: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="pinned (a core each) | quota (a share of one) | emulated (train, then sleep to "
            "the modelled time); else the first that this machine can.",
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Of a core's time, a client's quota.  [default: 0.7 x cores / clients]"),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD:KEY=VALUE",
            help="Measure this as well, and the gain over it; + joins several keys.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder; without it, the next free runs/NNN.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print validation.json only.")] = False,
    quiet: Quiet = False,
    parts: Parts = None,
) -> None:
    """Hold predicted rounds against real ones: namespaces with shaped links (Linux, root)."""
    from airtune.validation.options import computing_mode, refuse_experiment, refuse_machine

    refuse_machine()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from airtune.deploy.extra import deploy_extra

    with deploy_extra():
        from airtune.validation.result import Arm, validate
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    arms = [Arm(name, config) for name, config in _arms(experiment, settings, against, rounds)]
    for arm in arms:
        refuse_experiment(arm.config)
    mode = computing_mode(computing, share, arms[0].config.clients.count)
    folders = [*(parts or ()), *([experiment.resolve().parent] if experiment else ())]

    def say(sentence: str) -> None:
        if not quiet:
            typer.echo(sentence, err=True)

    if out is None:
        with next_free_folder(Path("runs")) as folder:
            result = validate(arms, folder, mode, folders, say)
    else:
        folder, result = out, validate(arms, out, mode, folders, say)
    _show(result, folder, as_json=json, quiet=quiet)


def _arms(
    experiment: Path | None, settings: list[str] | None, against: list[str] | None, rounds: int
) -> list[tuple[str, Any]]:
    """The experiment and those that it is held against, by name."""
    from airtune.comparison.definition import read_comparison
    from airtune.experiment import Experiment

    given = [*(settings or ()), f"rounds={rounds}"]
    for setting in settings or ():
        if setting.partition("=")[0].strip() == "rounds":
            raise InputError("--set", setting, "given as --rounds in a validation")
    config = Experiment.load(experiment, given).config
    arms = [(config.method, config)]
    # What another arm has of its own is its method and the options of it.
    shared = [s for s in given if _first_key(s) not in ("method", config.method)]
    for text in against or ():
        (arm,) = read_comparison(experiment, [text], shared).arms
        arms.append((arm.name, next(iter(arm.configs.values()))))
    names = [name.replace(":", "-") for name, _ in arms]
    if len(set(names)) < len(names):
        raise InputError("--against", ", ".join(against or ()), "other than the experiment itself")
    return arms


def _first_key(setting: str) -> str:
    return setting.partition("=")[0].partition(".")[0].strip()


def _show(result: dict[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    from airtune.cli.text import page_width, prose, text_table
    from airtune.validation.result import rows_of
    from airtune.validation.words import sentences, stage_table, summary_table

    if as_json:
        sys.stdout.write(json_text.dumps(result, indent=2) + "\n")
        return
    if quiet:
        return
    width = page_width()
    for arm in result["arms"]:
        typer.echo(f"\n{arm['arm']}, means over {arm['rounds']} rounds")
        headings, rows = stage_table(rows_of(arm))
        typer.echo(text_table(headings, rows, keys=2, width=width))
    typer.echo()
    headings, rows = summary_table(result)
    typer.echo(text_table(headings, rows, width=width))
    typer.echo()
    for sentence in sentences(result):
        typer.echo(prose(sentence, width))
    typer.echo(f"\nReport: {folder / 'report.html'}")
