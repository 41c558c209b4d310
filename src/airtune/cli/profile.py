"""`airtune profile`: what a training step of a model computes, holds and sends."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airtune.errors import InputError

if TYPE_CHECKING:
    from airtune.workload.architecture import Decoder
    from airtune.workload.precision import Precision
    from airtune.workload.transformer import Part, Workload

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="builtin, a bundled config, a folder with config.json, or a hub name."
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
    wanted = _Wanted(
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
    answer = _count(wanted)
    if json:
        _print_json(wanted, answer)
    else:
        _print_tables(wanted, answer)


@dataclass(frozen=True)
class _Wanted:
    """The question, with the names of the options."""

    model: str
    rank: int
    target_modules: str
    full: bool
    tokens: int
    batch: int
    pruning_rate: float
    split_point: int | None
    dtype: str
    compute_dtype: str | None
    update_dtype: str


@dataclass(frozen=True)
class _Answer:
    """The work of the whole model, or of both halves, and the client's update."""

    architecture: "Decoder"
    halves: "dict[str, Workload]"
    update_bits: int
    precision: "Precision"


def _count(wanted: _Wanted) -> _Answer:
    from airtune.workload.adapter_shape import ALL_LINEAR, AdapterShape, EveryParameter, Trained
    from airtune.workload.architecture import load_architecture
    from airtune.workload.payload import update_bits
    from airtune.workload.precision import Precision
    from airtune.workload.step import Step
    from airtune.workload.transformer import split_workload, workload

    model = load_architecture(wanted.model)
    names = tuple(name.strip() for name in wanted.target_modules.split(",") if name.strip())
    adapter: Trained = AdapterShape(wanted.rank, ALL_LINEAR if names == (ALL_LINEAR,) else names)
    if wanted.full:
        adapter = EveryParameter()
    step = Step(wanted.batch, wanted.tokens)
    precision = Precision(wanted.dtype, compute=wanted.compute_dtype)
    rate, cut = wanted.pruning_rate, wanted.split_point
    if cut is None:
        halves = {"whole": workload(model, adapter, step, rate, precision)}
        blocks = None
    else:
        client, server = split_workload(model, adapter, step, cut, rate, precision)
        halves = {"client": client, "server": server}
        blocks = range(cut)
    bits = update_bits(model, adapter, wanted.update_dtype, rate, blocks)
    return _Answer(model, halves, bits, precision)


def _print_json(wanted: _Wanted, answer: _Answer) -> None:
    from json import dumps

    content: dict[str, Any] = asdict(wanted)
    content |= {"family": answer.architecture.family, "update_bits": answer.update_bits}
    for name, half in answer.halves.items():
        content[name] = {
            "parameters": half.parameters,
            "adapter_parameters": half.adapter_parameters,
            "forward_flops": half.forward_flops,
            "backward_flops": half.backward_flops,
            "memory_bytes": half.memory_bytes,
            "weight_bytes": half.weight_bytes,
            "working_bytes": half.working_bytes,
            "parts": [asdict(part) for part in half.parts],
        }
    typer.echo(dumps(content, indent=2))


def _print_tables(wanted: _Wanted, answer: _Answer) -> None:
    from airtune.cli.text import page_width, prose
    from airtune.quantities import format_quantity

    model, width = answer.architecture, page_width()
    pruned = f", pruned by {wanted.pruning_rate:.0%}" if wanted.pruning_rate else ""
    lora = f"LoRA rank {wanted.rank} on {wanted.target_modules}"
    what = (
        f"{wanted.model} ({model.family}, {model.block_count} blocks of width {model.hidden_size}"
        f"{pruned}), {'every parameter trained' if wanted.full else lora}; one step of "
        f"{wanted.batch} x {wanted.tokens} tokens, {wanted.dtype}"
    )
    typer.echo(prose(what, width))
    for name, half in answer.halves.items():
        typer.echo(f"\n{_table(name, half, wanted.update_dtype, width)}")
    update = (
        f"The client's update is {format_quantity(answer.update_bits, 'bit')} in "
        f"{wanted.update_dtype}, as one safetensors frame."
    )
    typer.echo(f"\n{prose(update, width)}")
    if answer.precision.is_quantised:
        held = sum(half.weight_bytes for half in answer.halves.values())
        base = (
            f"The base takes {format_quantity(held, 'byte')} with its scales: the matrices of its "
            f"blocks in {wanted.dtype}, the rest and every product in "
            f"{answer.precision.compute_dtype}."
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
