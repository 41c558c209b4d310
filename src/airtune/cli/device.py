"""`airtune device list` and `airtune device measure`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.cli.command import FullGroup, OnceCommand

if TYPE_CHECKING:
    from airtune.cost.device import DeviceProfile

app = typer.Typer(cls=FullGroup, help="Device profiles: what clients compute, hold and radiate.")

STEADY = 0.25
"""How much longer than the fastest the slowest step may take before a measurement is in doubt."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", cls=OnceCommand)
def list_devices(
    file: Annotated[
        Path | None, typer.Option(help="A YAML file with profiles of your own, listed too.")
    ] = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also print where each figure comes from.")
    ] = False,
    json: Json = False,
) -> None:
    """Show every known device profile."""
    from airtune.cost.device import load_devices

    devices = load_devices(file)
    if json:
        from json import dumps

        typer.echo(dumps({name: device.mapping() for name, device in devices.items()}, indent=2))
        return
    _print_by_software(list(devices.values()))
    if not sources:
        typer.echo("--sources shows what each device is and the source of its figures.")
        return
    for device in devices.values():
        typer.echo(f"\n{device.name}: {device.title}")
        typer.echo(f"  software: {device.software}")
        typer.echo(f"  rate_precision: {device.rate_precision}")
        for figure, source in device.sources.items():
            typer.echo(f"  {figure}: {source}")


def _print_by_software(devices: "list[DeviceProfile]") -> None:
    """A table for each software, since a rate belongs to it as much as to the device."""
    for software in dict.fromkeys(device.software for device in devices):
        typer.echo(f"Training rate with: {software}")
        _print_table([device for device in devices if device.software == software])
        typer.echo()
    typer.echo("Rates compare devices within a table only: elsewhere the software differs, too.")
    typer.echo("The same rate is charged whatever dtype the base has.")


def _print_table(devices: "list[DeviceProfile]") -> None:
    """Plain columns of fixed width, so that a pipe gets what a terminal shows."""
    from airtune.quantities import format_quantity

    name = max(len(device.name) for device in devices)
    row = f"{{:<{max(name, 22)}}}  {{:<7}}  {{:>13}}  {{:>7}}  {{:>7}}  {{:>6}}  {{:>6}}"
    typer.echo(row.format("device", "kind", "training", "memory", "power", "idle", "radio"))
    for device in devices:
        powers = device.computing_power_w, device.idle_power_w
        typer.echo(
            row.format(
                device.name,
                device.kind,
                format_quantity(device.training_flop_rate, "FLOP/s"),
                format_quantity(device.memory_bytes, "B"),
                *("unknown" if power is None else format_quantity(power, "W") for power in powers),
                f"{device.tx_power_dbm:g} dBm",
            )
        )


@app.command(cls=OnceCommand)
def measure(
    name: Annotated[str, typer.Option(help="The new profile's name.")] = "this-machine",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add the profile to this YAML file; without it, print."),
    ] = None,
    computing_power_w: Annotated[
        float | None,
        typer.Option(help="What the machine draws while it trains [W], from a meter."),
    ] = None,
    idle_power_w: Annotated[
        float | None, typer.Option(help="What it draws while it waits [W], from a meter.")
    ] = None,
    tx_power_dbm: Annotated[float, typer.Option(help="Most that its modem radiates [dBm].")] = 23.0,
    dtype: Annotated[str, typer.Option(help="Type of the base model: fp32, fp16, bf16.")] = "fp32",
    seconds: Annotated[float, typer.Option(min=0.0, max=3600.0, help="How long to time.")] = 5.0,
    json: Json = False,
) -> None:
    """Time LoRA training on this machine and write a profile for `clients.devices`."""
    from airtune.cost.device import refuse_figures
    from airtune.errors import InputError

    if seconds != seconds:
        raise InputError("--seconds", seconds, "a number from 0 to 3600")
    powers = {"computing_power_w": computing_power_w, "idle_power_w": idle_power_w}
    refuse_figures(tx_power_dbm=tx_power_dbm, **powers)
    content = _own_profiles(out, name)
    from airtune.cost.measure import measure_training, measured_profile
    from airtune.tuning.plain_peft import without_bitsandbytes

    with without_bitsandbytes():
        measurement = measure_training(seconds, dtype)
    profile = measured_profile(name, measurement, computing_power_w, tx_power_dbm, idle_power_w)
    content[name] = profile.mapping()
    if out is not None:
        _write_yaml(out, content)
    if json:
        from json import dumps

        typer.echo(dumps({name: profile.mapping()}, indent=2))
    else:
        _print_table([profile])
        where = f"Added to {out}; name it in `clients.device_file`."
        typer.echo("\n" + (_yaml({name: profile.mapping()}).rstrip() if out is None else where))
        _print_doubts(computing_power_w, measurement.spread)


def _print_doubts(computing_power_w: float | None, spread: float) -> None:
    """What the user should know before the figures are used, on standard error."""
    if computing_power_w is None:
        typer.echo(
            "Power is not known, and energy cannot be charged without it: read a meter and give "
            "--computing-power-w.",
            err=True,
        )
    if spread > STEADY:
        typer.echo(
            f"The slowest step took {spread:.0%} longer than the fastest: other work runs on this "
            "machine, or it throttles.",
            err=True,
        )


def _own_profiles(out: Path | None, name: str) -> dict[str, Any]:
    """What the file holds already, refused before anything is timed if it has this name."""
    from airtune.cost.device import load_devices
    from airtune.errors import InputError
    from airtune.files import read_yaml_mapping, require_place

    if out is None:
        return {}
    require_place("--out", out)
    if not out.exists():
        return {}
    load_devices(out)
    content = read_yaml_mapping(out, "--out")
    if name in content:
        raise InputError("--name", name, f"a name that {out} does not have", "choose another")
    return content


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    from airtune.files import write_text_atomic

    write_text_atomic(path, _yaml(content))


def _yaml(content: dict[str, Any]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    text = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.dump(content, text)
    return text.getvalue()
