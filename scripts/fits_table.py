"""Which model fits which device, and by what means: the table of docs/fits.md, from dry runs.

    python scripts/fits_table.py            # write the table; needs airtune[quant]; half a minute
    python scripts/fits_table.py --check    # exit 1 if the document is out of date

Every cell is what `airtune run --dry-run` finds for one client on that device with `charge_as` of
that model: the memory that it needs of what the device leaves to training, or the refusal. A column
is a list of settings in `COLUMNS`.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airtune.cost.device import load_devices
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.round_plan import ClientPlan

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "fits.md"
PLACE = re.compile(r"(<!-- fits -->\n).*?(<!-- end -->)", re.DOTALL)
MODELS = ("qwen2.5-0.5b", "llama-3.1-8b")
DEVICES = (
    "iphone-16",
    "galaxy-s25",
    "jetson-nano",
    "raspberry-pi-5",
    "jetson-orin-nano",
    "jetson-agx-orin",
    "laptop-cpu",
    "macbook-pro-m3-pro",
    "macbook-pro-m1-max",
)
COMMON = (
    "clients.count=1",
    "training.batch_size=1",
    "rounds=1",
    "data.train_limit=200",
    "data.test_limit=8",
    "cell.path_loss=log_distance",
    "threads=1",
    "engine=sequential",
)
NEEDED = re.compile(r"at least ([\d.e+]+) GB")


def memory(world: World) -> str:
    """What one client needs [GB]."""
    costs = world.context.costs.in_round(0)
    return f"{costs.memory_bytes(_whole(world)) / 1e9:.3g} GB"


def pruned(world: World) -> str:
    """The least pruning rate that fits, and the memory at it."""
    costs = world.context.costs.in_round(0)
    rate = costs.least_rate(_whole(world))
    plan = ClientPlan(0, 0.0, 0.0, world.context.rank, pruning_rate=rate)
    return f"{costs.memory_bytes(plan) / 1e9:.3g} GB at {rate:.0%}" if rate else memory(world)


def split(world: World) -> str:
    """The most blocks that fit on the client, and the memory of its half."""
    system = world.context.costs.in_round(0).split
    assert system is not None, "the method splits the model"
    point = max(system.split_points(0))
    return f"{system.memory_bytes(0, point) / 1e9:.3g} GB, {point} blocks"


def _whole(world: World) -> ClientPlan:
    return ClientPlan(0, 0.0, 0.0, world.context.rank)


Column = tuple[tuple[str, ...], Callable[[World], str]]
COLUMNS: Mapping[str, Column] = {
    "fp32": ((), memory),
    "bf16": (("dtype=bf16",), memory),
    "int8": (("dtype=int8",), memory),
    "nf4": (("dtype=nf4",), memory),
    "nf4, checkpointed": (("dtype=nf4", "training.gradient_checkpointing=true"), memory),
    "bf16, pruned": (("dtype=bf16", "method=jcpba", "jcpba.pruning_budget=0.9"), pruned),
    "bf16, split": (("dtype=bf16", "method=sflllm"), split),
    "nf4, split": (("dtype=nf4", "method=sflllm"), split),
}


def cell(model: str, device: str, column: Column) -> str:
    """What the dry run finds, or a dash with what would be needed."""
    settings, figure = column
    own = (f"charge_as={model}", f"clients.devices=[{device}]")
    try:
        return figure(build_world(read_config(None, [*COMMON, *own, *settings])))
    except InputError as error:
        needed = NEEDED.search(str(error))
        return f"– ({float(needed[1]):.3g} GB)" if needed else "–"


def table() -> str:
    """The Markdown table."""
    known: Mapping[str, Any] = load_devices()
    lines = [
        f"| model | device | usable | {' | '.join(COLUMNS)} |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for model in MODELS:
        for device in DEVICES:
            usable = f"{known[device].usable_memory_bytes / 1e9:.3g} GB"
            cells = [cell(model, device, column) for column in COLUMNS.values()]
            lines.append(f"| {model} | `{device}` | {usable} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    old = DOCUMENT.read_text()
    new = PLACE.sub(lambda found: found[1] + table() + found[2], old)
    if "--check" in sys.argv[1:]:
        return int(new != old)
    DOCUMENT.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
