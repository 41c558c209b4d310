"""The model card: README.md beside an adapter or a tuned model, as the Hugging Face hub reads it.

It says what was trained, on what and how, from the experiment and its records. The same run gives
the same bytes: it has no time, no machine and no path.
"""

import io
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePath
from typing import Any, Literal

from ruamel.yaml import YAML

from airtune import __version__
from airtune.config.experiment import PART_KINDS, ExperimentConfig
from airtune.config.text import plain_values
from airtune.errors import redacted
from airtune.experiment.trained import FULL
from airtune.experiment.world import World
from airtune.federated.records.record import RoundRecord
from airtune.methods.registry import find_method
from airtune.quantities import format_duration, format_quantity
from airtune.user_parts import name_and_options
from airtune.wireless.channel import channel_source

BUILTIN = "builtin"
UNKNOWN_LICENCE, OWN_LICENCE = "unknown", "mit"
"""Of an adapter whose base or data are not airtune's own, and of one where both are."""
Kind = Literal["adapter", "merged", "full"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Progress:
    """How far a run is: its test loss before round 1 [nat a token], and the rounds that are done.

    `deployed`: whether its clients were on machines of their own.
    """

    start_loss: float
    records: Sequence[RoundRecord]
    deployed: bool = False


def model_card(world: World, progress: Progress, *, merge: bool = False) -> str:
    """The card of what a run has trained; with `merge`, of the model with the adapter merged in."""
    values = plain_values(world.config)
    kind: Kind = "full" if world.config.adapter.kind == FULL else "merged" if merge else "adapter"
    base = values["model"]
    shown = {"adapter": "LoRA adapter of", "merged": "LoRA merged into", "full": "Fine-tuned"}[kind]
    parts = [
        _front_matter(values, kind),
        f"# {shown} {_short(base)}",
        _opening(world, progress),
        _table(_rows(world, values, progress)),
        "## Use",
        _use(base, kind),
        "## Licence",
        _licence_words(values),
    ]
    return redacted("\n\n".join(parts)) + "\n"


def with_licence(card: str, licence: str) -> str:
    """The card with another licence in its metadata, and said to be the owner's."""
    head, _, body = card.partition("\n---\n")
    head = re.sub(r"(?m)^license: .*$", f"license: {licence}", head)
    before, _, _ = body.partition("## Licence\n")
    return f"{head}\n---\n{before}## Licence\n\n{licence}, as stated by the publisher.\n"


def _front_matter(values: Mapping[str, Any], kind: Kind) -> str:
    sets = [values["data"]["train"], values["data"]["test"]]
    names = [name.partition(":")[0] for name in sets if isinstance(name, str)]
    data = [name for name in dict.fromkeys(names) if "/" in name and is_on_hub(name)]
    found: dict[str, Any] = {
        "library_name": "peft" if kind == "adapter" else "transformers",
        **({"base_model": values["model"]} if is_on_hub(values["model"]) else {}),
        "license": _licence(values),
        "pipeline_tag": "text-generation",
        **({"datasets": data} if data else {}),
        "tags": ["airtune", "federated-learning", *(["lora"] if kind != "full" else [])],
    }
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(found, stream)
    return f"---\n{stream.getvalue()}---"


def is_on_hub(name: str) -> bool:
    """Whether a name is one of the hub's: neither airtune's own model nor a path."""
    known = _HUB_NAME.fullmatch(name) is not None and not name.startswith(BUILTIN)
    return known and not Path(name).exists()


def _short(name: str) -> str:
    """A model or a data set by its name, a path by its last part."""
    is_name = is_on_hub(name) or name.startswith(BUILTIN)
    text = name if is_name else PurePath(name).name or name
    return " ".join(text.replace("|", "/").split())


def _licence(values: Mapping[str, Any]) -> str:
    sources = (values["model"], values["data"]["train"], values["data"]["test"] or BUILTIN)
    own = all(name == BUILTIN or name.startswith(f"{BUILTIN}:") for name in sources)
    return OWN_LICENCE if own else UNKNOWN_LICENCE


def _licence_words(values: Mapping[str, Any]) -> str:
    if _licence(values) == OWN_LICENCE:
        return "MIT, like the built-in model and its text, which are part of airtune."
    return (
        "Not stated: the terms of the base model and of the data apply. Set `license` above\n"
        "before you publish this (`airtune push --license`)."
    )


def _opening(world: World, progress: Progress) -> str:
    config = world.config
    spec = find_method(config.method)
    where = "on their own machines" if progress.deployed else "simulated"
    sources = f" ({'; '.join(spec.references)})" if spec.references else ""
    return _filled(
        f"Trained with [airtune](https://github.com/airtune/airtune) {__version__} by the method "
        f"`{spec.name}`: {spec.title}{sources}. The clients were {where}."
    )


def _rows(world: World, values: Mapping[str, Any], progress: Progress) -> list[tuple[str, str]]:
    config, records = world.config, progress.records
    training = config.training
    data = values["data"]
    tests = data["test"] or f"held out from {_short(data['train'])}"
    devices = Counter(device.name for device in world.devices)
    rows = [
        ("base model", f"{_short(values['model'])}, {config.dtype}"),
        ("trained", _trained(world)),
        ("training data", f"{_short(data['train'])}, {world.shards.train_rows} rows"),
        ("test data", f"{_short(tests)}, {len(world.tests.encoded)} rows"),
        *_losses(progress),
        ("rounds", str(len(records))),
        ("clients", ", ".join(f"{count} x {name}" for name, count in devices.items())),
        (
            "local training",
            f"{_steps(training.local_steps)} of {training.batch_size}, {training.optimizer} at "
            f"{training.learning_rate:g}, {training.schedule}",
        ),
        (
            "cell",
            f"{format_quantity(config.cell.bandwidth_hz, 'Hz')}, {channel_source(config.cell)}",
        ),
        *_own_parts(config),
        ("seed", str(config.seed)),
    ]
    return [*rows, *_costs(config.charge_as and _short(values["charge_as"]), records)]


def _own_parts(config: ExperimentConfig) -> list[tuple[str, str]]:
    """Parts that replace the method's, by name; their options may be secret."""
    named = {kind: getattr(config, kind) for kind in PART_KINDS}
    return [
        (kind, name_and_options(spec, kind)[0]) for kind, spec in named.items() if spec is not None
    ]


def _trained(world: World) -> str:
    section = world.config.adapter
    count = f"{sum(prod(shape) for shape in world.side.shapes.values()):,} parameters"
    if section.kind == FULL:
        return f"every parameter ({count})"
    named = section.target_modules
    targets = named if isinstance(named, str) else ", ".join(named)
    alpha = 2 * section.rank if section.alpha is None else section.alpha
    merged = ", merged into the base round by round; all of it is here"
    return (
        f"LoRA of rank {section.rank}, alpha {alpha:g}, on {targets} ({count})"
        f"{merged if find_method(world.config.method).changes_base else ''}"
    )


def _losses(progress: Progress) -> list[tuple[str, str]]:
    rows = [("test loss before", f"{progress.start_loss:.4f} nat a token")]
    if progress.records:
        rows.append(("test loss after", f"{progress.records[-1].test_loss:.4f} nat a token"))
    return rows


def _costs(charge_as: str | None, records: Sequence[RoundRecord]) -> list[tuple[str, str]]:
    if not records:
        return []
    charged = f", charged as {charge_as}" if charge_as else ""
    up = sum(record.uplink_bits for record in records)
    energy = sum(record.energy_j for record in records)
    return [
        ("time on the virtual clock", f"{format_duration(records[-1].virtual_time_s)}{charged}"),
        ("sent up by all clients", format_quantity(up / 8, "B")),
        ("energy of all clients", format_quantity(energy, "J")),
    ]


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _use(base: str, kind: Kind) -> str:
    if kind != "adapter":
        return _code('model = AutoModelForCausalLM.from_pretrained("FOLDER")', "FOLDER")
    name = base if is_on_hub(base) else "BASE"
    code = _code(
        f'base = AutoModelForCausalLM.from_pretrained("{name}")\n'
        'model = PeftModel.from_pretrained(base, "FOLDER")',
        name,
        "from peft import PeftModel\n",
    )
    if base == BUILTIN:
        return f"`airtune model export {BUILTIN} BASE` writes the base model.\n\n{code}"
    return code if name == base else f"`BASE` is the folder of {_short(base)}.\n\n{code}"


def _code(lines: str, tokenizer: str, imports: str = "") -> str:
    return (
        f"`FOLDER` is this one, or its name on the hub.\n\n```python\n{imports}"
        f"from transformers import AutoModelForCausalLM, AutoTokenizer\n\n{lines}\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")\n```'
    )


def _filled(text: str, width: int = 88) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
