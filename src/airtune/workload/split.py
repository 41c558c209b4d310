"""Split points as SflLLM weighs them: work and bits on each side of the cut, per sample."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from airtune.workload.adapter_shape import ALL_LINEAR, AdapterShape
from airtune.workload.architecture import Architecture
from airtune.workload.payload import update_bits
from airtune.workload.step import Step
from airtune.workload.transformer import Workload, activation_bits, split_workload


@dataclass(frozen=True)
class SplitCandidate:
    """One split point and rank, with the keys of a `sflllm` problem file; counts are per sample.

    `activation_bits` go up and `gradient_bits` come back at the cut; `adapter_bits` is the client
    half's whole update. The LM head's work is on the server's side.
    """

    split_point: int
    rank: int
    client_forward_flops: int
    client_backward_flops: int
    server_forward_flops: int
    server_backward_flops: int
    activation_bits: int
    gradient_bits: int
    adapter_bits: int

    def row(self, rounds: float) -> dict[str, float]:
        """The candidate as a problem file lists it, with its rounds to the target."""
        return {**asdict(self), "rounds": rounds}


@dataclass(frozen=True)
class SplitFlops:
    """Operations of one step on each side of the cut; the LM head apart, since labels decide where
    it runs. Prefix sums over the parts of a whole model's `workload`."""

    client_forward: float
    client_backward: float
    server_forward: float
    server_backward: float
    head_forward: float
    head_backward: float

    def with_logits(self, single: "SplitFlops", step: Step) -> "SplitFlops":
        """The same step with logits at `step.logit_rows` positions, of which the head's work is a
        linear function; `single` has one, this has all."""
        share = (step.logit_rows - 1) / max(step.positions - 1, 1)
        return replace(
            self,
            head_forward=single.head_forward + share * (self.head_forward - single.head_forward),
            head_backward=single.head_backward
            + share * (self.head_backward - single.head_backward),
        )

    @classmethod
    def of(cls, whole: Workload, split_point: int) -> "SplitFlops":
        """Of a model cut after `split_point` blocks; parts are embedding, blocks, head."""
        client, (*blocks, head) = whole.parts[: split_point + 1], whole.parts[split_point + 1 :]
        return cls(
            float(sum(part.forward_flops for part in client)),
            float(sum(part.backward_flops for part in client)),
            float(sum(part.forward_flops for part in blocks)),
            float(sum(part.backward_flops for part in blocks)),
            float(head.forward_flops),
            float(head.backward_flops),
        )


def split_candidates(
    architecture: Architecture,
    tokens: int,
    ranks: Iterable[int],
    split_points: Iterable[int] | None = None,
    target_modules: str | tuple[str, ...] = ALL_LINEAR,
    activation_dtype: str = "fp32",
    update_dtype: str = "fp32",
) -> list[SplitCandidate]:
    """Every pair of split point (default: all, 1 to blocks - 1) and rank, for samples of `tokens`.

    Raises InputError for a split point, rank or target that the model does not have.
    """
    points = range(1, architecture.block_count) if split_points is None else tuple(split_points)
    adapters = [AdapterShape(rank, target_modules) for rank in ranks]
    return [
        _candidate(architecture, adapter, tokens, point, activation_dtype, update_dtype)
        for point in points
        for adapter in adapters
    ]


def _candidate(
    architecture: Architecture,
    adapter: AdapterShape,
    tokens: int,
    split_point: int,
    activation_dtype: str,
    update_dtype: str,
) -> SplitCandidate:
    step = Step(batch_size=1, tokens=tokens)
    client, server = split_workload(architecture, adapter, step, split_point)
    cut_bits = activation_bits(architecture, tokens, activation_dtype)
    return SplitCandidate(
        split_point=split_point,
        rank=adapter.rank,
        client_forward_flops=client.forward_flops,
        client_backward_flops=client.backward_flops,
        server_forward_flops=server.forward_flops,
        server_backward_flops=server.backward_flops,
        activation_bits=cut_bits,
        gradient_bits=cut_bits,
        adapter_bits=update_bits(architecture, adapter, update_dtype, blocks=range(split_point)),
    )
