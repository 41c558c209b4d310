"""`airtune deploy server`, `client`, `status` and `shards`."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from airtune.cli.completing import devices
from airtune.cli.run import Json, Parts, Quiet, Settings
from airtune.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="No encryption and no keys; on this machine alone."),
]
Keys = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="This machine's folder of `airtune deploy keys`."),
]


Data = Annotated[Path, typer.Option(metavar="FILE", help="This client's rows, jsonl or csv.")]
Model = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="The base model; it must be the server's.")
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="PROFILE",
        help="This device; without it, the experiment's profile.",
        autocompletion=devices,
    ),
]
DeviceFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A YAML file with profiles of your own.")
]
State = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where moments are kept.  [default: airtune-client-N, here]"),
]
OwnFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--file", metavar="KEY=FILE", help="Own file for a key of the method that names one."
    ),
]
AllowPart = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Code that may run: module:Class, or a method's name."),
]
ChatTemplate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The chat template, if it is a file.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that --model brings along.")
]
Delimiter = Annotated[
    str | None,
    typer.Option(metavar="CHAR", help="Between the cells of a csv or tsv file."),
]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help="torch threads.")]


def server(
    experiment: Annotated[
        Path | None,
        typer.Argument(metavar="[EXPERIMENT.yaml]", help="The experiment; without one, built in."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; the same one again goes on with it."),
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where clients connect.")
    ] = "0.0.0.0:8443",
    keys: Keys = None,
    insecure: Insecure = False,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
    parts: Parts = None,
) -> None:
    """Run an experiment with clients on other machines; started again, it goes on."""
    if out is None:
        raise InputError("--out", "left out", "given", "name the folder of the run")
    _check_security(listen, keys, insecure, "--listen")
    _quiet_grpc()
    from airtune.deploy.extra import deploy_extra

    with deploy_extra():
        from airtune.deploy.keys import read_server_keys
        from airtune.deploy.server import ServerOptions, serve
    from airtune.cli.terminal import watch_run
    from airtune.experiment import Experiment
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    job = Experiment.load(experiment, settings or ())
    options = ServerOptions(listen, None if keys is None else read_server_keys(keys))
    say = teller(quiet)
    watch_run(
        lambda listener: serve(job, out, options, listener, say),
        out,
        as_json=json,
        quiet=quiet,
        goes_on="the same `airtune deploy server` with --out",
    )


def client(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")],
    data: Data,
    keys: Keys = None,
    model: Model = None,
    device: Device = None,
    device_file: DeviceFile = None,
    state: State = None,
    file: OwnFiles = None,
    allow_part: AllowPart = None,
    parts: Parts = None,
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    threads: Threads = None,
    delimiter: Delimiter = None,
    wait_s: Annotated[
        float, typer.Option(min=0, help="How long to try while the server is away [s].")
    ] = 600.0,
    insecure: Insecure = False,
    number: Annotated[
        int | None,
        typer.Option("--client", metavar="N", help="Its number from 0, beside --insecure."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train on this machine's rows for a server."""
    _check_security(server, keys, insecure, "--server")
    if insecure != (number is not None):
        shown = "left out" if number is None else number
        raise InputError(
            "--client", shown, "given beside --insecure, and only there", "a certificate names it"
        )
    check_data(data)
    _quiet_grpc()
    from airtune.deploy.extra import deploy_extra

    with deploy_extra():
        from airtune.deploy.client import Client
        from airtune.deploy.keys import read_client_keys
        from airtune.deploy.trainer import ClientOptions
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    own = None if keys is None else read_client_keys(keys)
    if own is not None:
        number = own.client
    assert number is not None
    options = ClientOptions(
        data,
        model,
        device,
        device_file,
        key_files(file),
        tuple(allow_part or ()),
        chat_template,
        trust_remote_code,
        threads,
        delimiter,
    )
    say = teller(quiet)
    folder = state or state_folder(number)
    say(Client(server, number, own, options, folder, say, wait_s).run())


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a deployed run.")],
    json: Json = False,
) -> None:
    """Show how far a deployed run is, and who is connected."""
    from airtune.deploy.status import read_status

    found = read_status(run)
    if json:
        from json import dumps

        typer.echo(dumps(found, indent=2))
        return
    for line in _status_lines(found):
        typer.echo(line)


def shards(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    settings: Settings = None,
    parts: Parts = None,
) -> None:
    """Write each client's rows of a simulated experiment as a file, and the test rows."""
    from airtune.deploy.shard_files import write_shards
    from airtune.experiment import Experiment
    from airtune.part_folders import name_folders

    name_folders(parts or ())
    written = write_shards(Experiment.load(experiment, settings or ()).config, folder)
    rows = sum(written.clients)
    typer.echo(
        f"{folder} has {rows} rows of {len(written.clients)} clients (client-0{written.suffix} and "
        f"so on) and {written.tests} test rows. `--set data.train={folder}` simulates with them."
    )


def _status_lines(found: dict[str, object]) -> list[str]:
    clients = found["clients"]
    assert isinstance(clients, list)
    lines = [
        f"rounds     {found['rounds_done']} of {found['rounds']}",
        f"server     {'running' if found['running'] else 'not running'}, started "
        f"{found['starts']} times",
    ]
    if clients:
        away = [str(row["client"]) for row in clients if not row["connected"]]
        there = f"{len(clients) - len(away)} of {len(clients)} connected"
        lines.append(f"clients    {there}{', away: ' + ', '.join(away[:20]) if away else ''}")
    return lines


def check_data(path: Path) -> None:
    """InputError for a file that is not there, before anything is loaded."""
    if not path.is_file():
        raise InputError("--data", str(path), "a file with this client's rows", "check the path")


def key_files(options: list[str] | None) -> dict[str, str]:
    """The files of --file by their keys."""
    return dict(map(_key_and_file, options or ()))


def state_folder(number: int) -> Path:
    """Where a client keeps its state unless --state says otherwise."""
    return Path(f"airtune-client-{number}")


def _key_and_file(text: str) -> tuple[str, str]:
    key, separator, path = text.partition("=")
    if not separator or not key or not path:
        raise InputError("--file", text, "of the form KEY=FILE")
    return key, path


def _check_security(address: str, keys: Path | None, insecure: bool, option: str) -> None:
    """One of --keys and --insecure, the latter on this machine alone."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(option, address, "of the form HOST:PORT")
    if insecure == (keys is not None):
        raise InputError(
            "--keys",
            "given beside --insecure" if insecure else "left out",
            "given, or --insecure in its place on this machine",
            "`airtune deploy keys` makes them",
        )
    if insecure and host not in LOOPBACK:
        raise InputError(
            option, address, f"at {', '.join(LOOPBACK)} with --insecure", "use --keys elsewhere"
        )


def _quiet_grpc() -> None:
    """gRPC writes lines of its own about handshakes; ours say the same in a sentence."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def teller(quiet: bool) -> Callable[[str], None]:
    """What takes sentences for the operator."""
    return (lambda sentence: None) if quiet else partial(typer.echo, err=True)
