"""What one training step of a model computes, holds and sends, from its config alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from html import escape
from typing import Any, final

from airtune.workload.adapter_shape import ALL_LINEAR, AdapterShape, EveryParameter, Trained
from airtune.workload.architecture import Decoder, load_architecture
from airtune.workload.payload import update_bits
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import Workload, split_workload, workload


@final
@dataclass(frozen=True)
class Profile:
    """One LoRA step (or, with `full`, one step of full tuning) of any decoder, part by part.

    No weights are loaded: a 70 B model takes no longer than GPT-2.

    >>> Profile("gpt2", rank=8).parameters
    124439808

    Args:
        model: builtin, a bundled config, a folder with config.json, or a hub name.
        rank: of LoRA; without effect with `full`.
        target_modules: `all-linear`, or module names separated by commas.
        full: every parameter is trained, in place of LoRA.
        tokens: in a sequence, padding included.
        batch: sequences in a step.
        pruning_rate: share of every block's attention units and neurons that is removed.
        split_point: blocks on the client; None: all of them.
        dtype: of the base model: fp32, fp16, bf16, nf4, int8.
        compute_dtype: of the products of an nf4 or int8 base; None: bf16.
        update_dtype: of what a client sends.

    Raises:
        InputError: for an unknown model, and for values out of range.
    """

    model: str = "builtin"
    rank: int = 8
    target_modules: str = ALL_LINEAR
    full: bool = False
    tokens: int = 256
    batch: int = 8
    pruning_rate: float = 0.0
    split_point: int | None = None
    dtype: str = "fp32"
    compute_dtype: str | None = None
    update_dtype: str = "fp32"

    def __post_init__(self) -> None:
        # Whatever is wrong is refused here, not where a figure is read.
        _ = self.halves, self.update_bits

    @cached_property
    def architecture(self) -> Decoder:
        return load_architecture(self.model)

    @cached_property
    def precision(self) -> Precision:
        return Precision(self.dtype, compute=self.compute_dtype)

    @cached_property
    def trained(self) -> Trained:
        if self.full:
            return EveryParameter()
        names = tuple(name.strip() for name in self.target_modules.split(",") if name.strip())
        return AdapterShape(self.rank, ALL_LINEAR if names == (ALL_LINEAR,) else names)

    @cached_property
    def halves(self) -> Mapping[str, Workload]:
        """The work of the `whole` model, or of a split one's `client` and `server`."""
        step = Step(self.batch, self.tokens)
        of = (self.architecture, self.trained, step)
        if self.split_point is None:
            return {"whole": workload(*of, self.pruning_rate, self.precision)}
        client, server = split_workload(*of, self.split_point, self.pruning_rate, self.precision)
        return {"client": client, "server": server}

    @cached_property
    def update_bits(self) -> int:
        """A client's update as one safetensors frame [bit]."""
        blocks = None if self.split_point is None else range(self.split_point)
        return update_bits(
            self.architecture, self.trained, self.update_dtype, self.pruning_rate, blocks
        )

    @property
    def parameters(self) -> int:
        """Of the model, frozen ones included, what is pruned left out."""
        return sum(half.parameters for half in self.halves.values())

    @property
    def adapter_parameters(self) -> int:
        """Parameters that are trained."""
        return sum(half.adapter_parameters for half in self.halves.values())

    @property
    def flops(self) -> float:
        """Forward and backward of the step [FLOP]."""
        return sum(half.forward_flops + half.backward_flops for half in self.halves.values())

    @property
    def memory_bytes(self) -> int:
        """Peak memory of a client's step [byte]: of the client's half of a split model."""
        return next(iter(self.halves.values())).memory_bytes

    def to_dict(self) -> dict[str, Any]:
        """What `airtune profile --json` prints."""
        asked: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        asked |= {"family": self.architecture.family, "update_bits": self.update_bits}
        return asked | {name: _figures(half) for name, half in self.halves.items()}

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row per part: embedding, every block, head."""
        import pandas

        return pandas.DataFrame(
            {"half": name, **asdict(part)}
            for name, half in self.halves.items()
            for part in half.parts
        )

    def _repr_html_(self) -> str:
        from airtune.quantities import format_quantity

        figures = (
            ("parameters", format_quantity(self.parameters, "")),
            ("trained", format_quantity(self.adapter_parameters, "")),
            (f"step of {self.batch} x {self.tokens} tokens", format_quantity(self.flops, "FLOP")),
            ("memory of a client", format_quantity(self.memory_bytes, "B")),
            ("update", format_quantity(self.update_bits, "bit")),
        )
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in figures)
        return f"<table><caption>{escape(self.model)}, {self.dtype}</caption>{rows}</table>"


def _figures(half: Workload) -> dict[str, Any]:
    return {
        "parameters": half.parameters,
        "adapter_parameters": half.adapter_parameters,
        "forward_flops": half.forward_flops,
        "backward_flops": half.backward_flops,
        "memory_bytes": half.memory_bytes,
        "weight_bytes": half.weight_bytes,
        "working_bytes": half.working_bytes,
        "parts": [asdict(part) for part in half.parts],
    }
