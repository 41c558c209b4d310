"""Number formats of a model in training, and the bytes that follow from them."""

from dataclasses import dataclass, replace

from airtune.errors import InputError
from airtune.workload.adapter_shape import matrix_paths
from airtune.workload.architecture import Decoder
from airtune.workload.block import Linear, Widths
from airtune.workload.payload import WIRE_DTYPES, dtype_bits
from airtune.workload.quantised import COMPUTE_DTYPE, QUANTISED, matrix_bytes, table_bytes
from airtune.workload.step import (
    ADAPTER_BYTES,
    OPTIMIZER_MOMENTS,
    Attention,
    Step,
    require_count,
)


@dataclass(frozen=True)
class Precision:
    """What fixes bytes: the base's dtype, the optimiser, and the kind of attention.

    With a quantised `dtype` (nf4, int8) the matrices of the blocks are held so; `compute` is the
    type that they are multiplied in, of activations, and of what is not quantised (None: bf16).
    `checkpointing`: a block keeps its input alone, and is run once more in the backward pass.
    `micro_batches`: parts into which the rows of a step are divided, of which memory holds one.
    """

    dtype: str = "fp32"
    optimizer: str = "adamw"
    attention: Attention = "sdpa"
    compute: str | None = None
    checkpointing: bool = False
    micro_batches: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in (*WIRE_DTYPES, *QUANTISED):
            raise InputError("dtype", self.dtype, f"one of {', '.join((*WIRE_DTYPES, *QUANTISED))}")
        if self.compute is not None and not self.is_quantised:
            raise InputError(
                "compute_dtype", self.compute, f"left out unless dtype is {' or '.join(QUANTISED)}"
            )
        dtype_bits(self.compute_dtype, "compute_dtype")
        if self.optimizer not in OPTIMIZER_MOMENTS:
            allowed = f"one of {', '.join(OPTIMIZER_MOMENTS)}"
            raise InputError("training.optimizer", self.optimizer, allowed)
        require_count("training.gradient_accumulation", self.micro_batches)

    def in_memory(self, step: Step) -> Step:
        """The part of a step that memory holds at once: its largest micro-batch."""
        if self.micro_batches == 1:
            return step
        rows = -(-step.batch_size // self.micro_batches)
        labels = None if step.label_tokens is None else min(step.label_tokens, rows * step.tokens)
        return replace(step, batch_size=rows, label_tokens=labels)

    @property
    def is_quantised(self) -> bool:
        """Whether the matrices of the blocks are held quantised."""
        return self.dtype in QUANTISED

    @property
    def compute_dtype(self) -> str:
        """What products run in."""
        return self.compute or (COMPUTE_DTYPE if self.is_quantised else self.dtype)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one number that is not quantised: of activations, embeddings, head, norms."""
        return dtype_bits(self.compute_dtype) // 8

    def linear_bytes(self, linear: Linear, widths: Widths, inside: bool) -> int:
        """A matrix with its bias; `inside`: in a block, where it may be quantised."""
        if not (inside and self.is_quantised):
            return linear.parameters(widths) * self.dtype_bytes
        rows, columns = linear.output_width(widths), linear.input_width(widths)
        return matrix_bytes(self.dtype, rows, columns) + rows * linear.bias * self.dtype_bytes

    def working_bytes(self, architecture: Decoder, loss: int = 0, recomputed: int = 0) -> int:
        """The arrays around the loss, or what a checkpointed block keeps while it is recomputed
        with a quantised base's largest matrix dequantised; and the table of its scales."""
        if not self.is_quantised:
            return max(loss, recomputed)
        largest = max(
            matrix.read * matrix.write
            for matrix in matrix_paths(architecture).values()
            if matrix.block is not None
        )
        return max(loss, recomputed + largest * self.dtype_bytes) + table_bytes(self.dtype)

    def memory_bytes(self, frozen: int, trained: int, stored: int) -> int:
        """Bytes of frozen weights + what is trained (value, gradient, moments) + activations."""
        per_trained = ADAPTER_BYTES * (2 + OPTIMIZER_MOMENTS[self.optimizer])
        return frozen + trained * per_trained + stored


DEFAULT_PRECISION = Precision()


def refuse_pruned(dtype: str) -> None:
    """Refuse a quantised base that is pruned: what is left of a matrix would need scales anew."""
    if dtype in QUANTISED:
        raise InputError(
            "dtype",
            dtype,
            f"one of {', '.join(WIRE_DTYPES)} where the model is pruned",
            "rows and columns cut out of a quantised matrix would have to be quantised anew, which "
            "is another base: set dtype=bf16, or take a method that does not prune",
        )


def refuse_in_split(checkpointing: bool, micro_batches: int) -> None:
    """Refuse, by name, what a client half does not do: its messages are those of a whole batch,
    and its blocks keep what their backward pass needs."""
    where = "where the model is split between client and server"
    if checkpointing:
        raise InputError("training.gradient_checkpointing", True, f"false {where}")
    if micro_batches != 1:
        raise InputError("training.gradient_accumulation", micro_batches, f"1 {where}")
