"""`airtune profile`: what a training step of a model computes, holds and sends."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.cli.completing import models
from airtune.errors import InputError

if TYPE_CHECKING:
    from airtune.workload.profile import Profile
    from airtune.workload.transformer import Part, Workload

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="builtin, a bundled config, a folder with config.json, or a hub name.",
        autocompletion=models,
    ),
]


def profile(
    model: ModelName,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.", show_default="8")] = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            help="all-linear, or module names separated by commas.", show_default="all-linear"
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every parameter is trained, in place of LoRA.")
    ] = False,
    tokens: Annotated[int, typer.Option(help="Tokens in a sequence, padding included.")] = 256,
    batch: Annotated[int, typer.Option(help="Sequences in a step.")] = 8,
    pruning_rate: Annotated[float, typer.Option(help="Share of every block removed.")] = 0.0,
    split_point: Annotated[
        int | None, typer.Option(help="Blocks on the client; without it, all.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Type of the base model: fp32, fp16, bf16, nf4, int8.")
    ] = "fp32",
    compute_dtype: Annotated[
        str | None,
        typer.Option(help="What products of an nf4 or int8 base run in.", show_default="bf16"),
    ] = None,
    update_dtype: Annotated[str, typer.Option(help="Type of what is sent.")] = "fp32",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters, FLOPs, bits and memory of one training step, part by part.

    From the model's config alone: nothing is loaded, so a 70 B model takes no longer than GPT-2.
    """
    for option, value in (("--rank", rank), ("--target-modules", target_modules)):
        if full and value is not None:
            raise InputError(option, value, "left out with --full, which trains every parameter")
    from airtune.workload.profile import Profile

    counted = Profile(
        model,
        8 if rank is None else rank,
        "all-linear" if target_modules is None else target_modules,
        full,
        tokens,
        batch,
        pruning_rate,
        split_point,
        dtype,
        compute_dtype,
        update_dtype,
    )
    if json:
        from json import dumps

        typer.echo(dumps(counted.to_dict(), indent=2))
    else:
        _print_tables(counted)


def _print_tables(counted: "Profile") -> None:
    from airtune.cli.text import page_width, prose
    from airtune.quantities import format_quantity

    model, width = counted.architecture, page_width()
    pruned = f", pruned by {counted.pruning_rate:.0%}" if counted.pruning_rate else ""
    lora = f"LoRA rank {counted.rank} on {counted.target_modules}"
    what = (
        f"{counted.model} ({model.family}, {model.block_count} blocks of width {model.hidden_size}"
        f"{pruned}), {'every parameter trained' if counted.full else lora}; one step of "
        f"{counted.batch} x {counted.tokens} tokens, {counted.dtype}"
    )
    typer.echo(prose(what, width))
    for name, half in counted.halves.items():
        typer.echo(f"\n{_table(name, half, counted.update_dtype, width)}")
    update = (
        f"The client's update is {format_quantity(counted.update_bits, 'bit')} in "
        f"{counted.update_dtype}, as one safetensors frame."
    )
    typer.echo(f"\n{prose(update, width)}")
    if counted.precision.is_quantised:
        held = sum(half.weight_bytes for half in counted.halves.values())
        base = (
            f"The base takes {format_quantity(held, 'byte')} with its scales: the matrices of its "
            f"blocks in {counted.dtype}, the rest and every product in "
            f"{counted.precision.compute_dtype}."
        )
        typer.echo(f"\n{prose(base, width)}")


def _table(name: str, half: "Workload", update_dtype: str, width: int | None) -> str:
    from airtune.cli.text import text_table
    from airtune.workload.payload import dtype_bits

    # Units are in the heading, so that the table fits a terminal of 80 columns.
    headings = (
        name,
        "parameters",
        "update bit",
        "forward FLOP",
        "backward FLOP",
        "output bit",
        "memory B",
    )
    sent = dtype_bits(update_dtype)
    rows = []
    for label, part in _grouped(half.parts):
        figures = (
            part.parameters,
            sent * part.adapter_parameters,
            part.forward_flops,
            part.backward_flops,
            part.activation_bits,
            part.memory_bytes,
        )
        rows.append([label, *(_short(figure) for figure in figures)])
    rows.append(["loss or cut", "", "", "", "", "", _short(half.working_bytes)])
    total = (
        "total",
        _short(half.parameters),
        _short(sent * half.adapter_parameters),
        _short(half.forward_flops),
        _short(half.backward_flops),
        "",
        _short(half.memory_bytes),
    )
    return text_table(headings, [*rows, list(total)], width=width)


def _short(figure: float) -> str:
    from airtune.quantities import format_quantity

    return format_quantity(figure, "").strip()


def _grouped(parts: "tuple[Part, ...]") -> "list[tuple[str, Part]]":
    """Equal neighbours as one row, `blocks 1-31, each`: 80 equal rows would not be read."""
    rows: list[tuple[str, Part]] = []
    start = 0
    for end in range(1, len(parts) + 1):
        if end < len(parts) and _figures(parts[end]) == _figures(parts[start]):
            continue
        first, last = parts[start].name, parts[end - 1].name
        kind, _, number = first.partition(" ")
        label = first if first == last else f"{kind}s {number}-{last.split()[-1]}, each"
        rows.append((label, parts[start]))
        start = end
    return rows


def _figures(part: "Part") -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if key != "name"}
