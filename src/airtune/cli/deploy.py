"""`airtune deploy`: keys here, the running server and clients in `deployment.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airtune.cli.command import FullGroup, OnceCommand
from airtune.cli.deployment import client, server, shards, status
from airtune.cli.flower import flower, trainer
from airtune.cli.run import refuse_beside

if TYPE_CHECKING:
    from airtune.deploy.issuing import Issued

app = typer.Typer(
    cls=FullGroup, help="Deployment: the server and the clients on machines of their own."
)
app.command(cls=OnceCommand)(server)
app.command(cls=OnceCommand)(client)
app.command(cls=OnceCommand)(status)
app.command(cls=OnceCommand)(shards)
app.command(cls=OnceCommand)(flower)
app.command(cls=OnceCommand)(trainer)


@app.command(cls=OnceCommand)
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of all keys.")],
    clients: Annotated[
        int | None,
        typer.Option(metavar="N", help="Make what is missing of keys for N clients and a server."),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME_OR_IP", help="A name of the server that clients connect to; repeatable."
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(metavar="N", help="Validity of new certificates.  [default: 365]")
    ] = None,
    ca_days: Annotated[
        int | None, typer.Option(metavar="N", help="Validity of a new authority.  [default: 3650]")
    ] = None,
    renew: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="New key and certificate for server or client-3."),
    ] = None,
    revoke: Annotated[
        str | None,
        typer.Option(metavar="NAME|SERIAL", help="Have the server refuse client-3, or one serial."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show all certificates.")] = False,
) -> None:
    """Make, renew, revoke and list the certificates of a deployment."""
    from airtune.deploy.extra import deploy_extra

    with deploy_extra():
        import airtune.deploy.issuing  # noqa: F401
    options = {
        "--clients": clients,
        "--renew": renew,
        "--revoke": revoke,
        "--list": show,
        "--host": host,
        "--days": days,
        "--ca-days": ca_days,
    }
    if clients is not None:
        _refuse_others(options, "--clients", "--host", "--days", "--ca-days")
        _make(folder, clients, host or [], days, ca_days)
    elif renew is not None:
        _refuse_others(options, "--renew", "--host", "--days")
        _renew(folder, renew, host or [], days)
    elif revoke is not None:
        _refuse_others(options, "--revoke")
        _revoke(folder, revoke)
    elif show:
        _refuse_others(options, "--list")
        _list(folder)
    else:
        raise typer.BadParameter("give one of --clients, --renew, --revoke and --list")


def _refuse_others(options: Mapping[str, object], *allowed: str) -> None:
    others = {name: value for name, value in options.items() if name not in allowed}
    refuse_beside(allowed[0], others)


def _make(
    folder: Path, clients: int, hosts: list[str], days: int | None, ca_days: int | None
) -> None:
    from airtune.deploy.certificates import AUTHORITY
    from airtune.deploy.issuing import AUTHORITY_DAYS, DAYS, issued_certificates, make_keys
    from airtune.errors import InputError

    if ca_days is not None and (folder / AUTHORITY).exists():
        raise InputError("--ca-days", ca_days, f"left out where {folder} has an authority")
    made = make_keys(
        folder,
        clients,
        hosts,
        days=DAYS if days is None else days,
        authority_days=AUTHORITY_DAYS if ca_days is None else ca_days,
    )
    if days is not None and not made.made:
        raise InputError("--days", days, "left out where nothing is missing", "use --renew")
    if made.made:
        typer.echo(f"Made in {folder}: {_names(made.made)}.")
    else:
        typer.echo(f"Nothing was missing in {folder}.")
    if made.kept:
        typer.echo(f"Kept as they were: {_names(made.kept)}.")
    if AUTHORITY in made.made:
        typer.echo(
            f"Copy {folder / 'server'} to the server and each {folder / 'client-N'} to its client. "
            f"{folder / AUTHORITY / 'ca.key'} can add clients: keep it off both."
        )
    _print_warnings(issued_certificates(folder))


def _renew(folder: Path, name: str, hosts: list[str], days: int | None) -> None:
    from airtune.deploy.certificates import SERVER, day, serial_text
    from airtune.deploy.issuing import DAYS, renew

    earlier = renew(folder, name, hosts, days=DAYS if days is None else days)
    file = "server.pem" if name == SERVER else "client.pem"
    typer.echo(f"Renewed: copy {folder / name / file} to the machine that uses it.")
    for entry in earlier:
        end = "" if name == SERVER else f", or until --revoke {serial_text(entry.serial)}"
        typer.echo(f"An earlier certificate is valid until {day(entry.not_after)}{end}.")


def _revoke(folder: Path, name: str) -> None:
    from airtune.deploy.issuing import revoke

    added = revoke(folder, name)
    place = folder / "server" / "revoked.txt"
    if not added:
        typer.echo(f"Nothing to revoke: every certificate of {name} is revoked or has expired.")
        return
    for entry in added:
        typer.echo(f"Revoked: {entry.revoked_line}")
    typer.echo(f"Copy {place} to the server, which reads it again without a restart.")


def _list(folder: Path) -> None:
    from airtune.cli.text import page_width, text_table
    from airtune.deploy.certificates import days_left, serial_text
    from airtune.deploy.issuing import issued_certificates

    entries = issued_certificates(folder)
    rows = [
        [
            entry.name,
            serial_text(entry.serial),
            str(days_left(entry.not_after)),
            "yes" if entry.revoked else "no",
            "in use" if entry.in_use else "replaced",
        ]
        for entry in entries
    ]
    headings = ["name", "serial", "expires in days", "revoked", "state"]
    typer.echo(text_table(headings, rows, left=["serial", "revoked", "state"], width=page_width()))
    _print_warnings(entries)


def _print_warnings(entries: "Sequence[Issued]") -> None:
    """Certificates in use that expire soon, on standard error."""
    from airtune.deploy.certificates import expiry_warning

    for entry in entries:
        warning = expiry_warning(entry.name, entry.not_after)
        if warning and entry.in_use and not entry.revoked:
            typer.echo(warning, err=True)


def _names(names: Sequence[str]) -> str:
    """Names with runs of clients as `client-0 to client-3`."""
    runs: list[list[str]] = []
    for name in names:
        number = _number(name)
        if runs and number is not None and _number(runs[-1][-1]) == number - 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    shown = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs]
    return ", ".join(shown)


def _number(name: str) -> int | None:
    digits = name.partition("-")[2]
    return int(digits) if digits else None
