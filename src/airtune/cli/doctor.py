"""`airtune doctor`: whether this machine and installation are fit for airtune."""

from typing import Annotated

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Look at packages, processor, memory, disk, GPU and known traps; exit 2 for a fault."""
    from airtune.experiment.checkup import checkup

    findings = checkup()
    faults = sum(finding.verdict == "fault" for finding in findings)
    if json:
        from dataclasses import asdict
        from json import dumps

        rows = [asdict(finding) for finding in findings]
        typer.echo(dumps({"ok": not faults, "findings": rows}, indent=2))
    else:
        from airtune.cli.text import facts, page_width, prose

        mark = {"ok": "", "note": "note: ", "fault": "FAULT: "}
        rows_shown = [
            (each.name, f"{mark[each.verdict]}{each.value}{'; ' * bool(each.remedy)}{each.remedy}")
            for each in findings
        ]
        width = page_width()
        typer.echo(facts(rows_shown, width))
        verdict = "Nothing is in the way of `airtune run`."
        if faults:
            verdict = f"{faults} fault{'s' * (faults > 1)}: mend what is marked FAULT first."
        typer.echo(f"\n{prose(verdict, width)}")
    if faults:
        raise typer.Exit(2)
