"""The work of the charged model: FLOPs, bits and memory of each client's training."""

from bisect import bisect_right
from dataclasses import dataclass, field

from airtune.cost.device import DeviceProfile, refuse_small_memory
from airtune.errors import InputError
from airtune.experiment.shards import Shards
from airtune.federated.method import Method
from airtune.round_plan import ClientPlan
from airtune.workload.adapter_shape import Trained
from airtune.workload.affine import affine_flops, affine_update_bits, distinct_rates, rate_that_fits
from airtune.workload.architecture import Architecture
from airtune.workload.split import SplitFlops
from airtune.workload.step import Step
from airtune.workload.transformer import Precision, Workload, split_workload, workload


@dataclass(frozen=True)
class TrainingWork:
    """The charged model's work in one optimiser step, remembered by its shape."""

    architecture: Architecture
    adapter: Trained
    precision: Precision
    shards: Shards
    devices: tuple[DeviceProfile, ...]
    _known: dict[tuple[int, int, float, int], Workload] = field(default_factory=dict, repr=False)
    _points: dict[tuple[int, bool], list[int]] = field(default_factory=dict, repr=False)
    _lines: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict, repr=False)

    def of(
        self, rows: int, tokens: int, pruning_rate: float = 0.0, rank: int | None = None
    ) -> Workload:
        """Parameters, FLOPs and memory of a batch, at the adapter's rank or another."""
        key = (rows, tokens, pruning_rate, rank or self.adapter.highest_rank)
        if key not in self._known:
            adapter = self.adapter.at_most(key[3])
            self._known[key] = workload(
                self.architecture, adapter, Step(rows, tokens), pruning_rate, self.precision
            )
        return self._known[key]

    def flops(self, rows: int, tokens: int, plan: ClientPlan) -> float:
        """Forward and backward operations [FLOP]."""
        return float(self.of(rows, tokens, plan.pruning_rate, plan.rank).flops)

    def affine_flops(self, rows: int, tokens: int) -> tuple[float, float]:
        """`fixed` and `prunable` of a step: fixed + (1 - rate) prunable [FLOP]."""
        key = (rows, tokens)
        if key not in self._lines:
            line = affine_flops(self.architecture, self.adapter, Step(rows, tokens))
            self._lines[key] = (float(line.fixed), float(line.prunable))
        return self._lines[key]

    def affine_bits(self, dtype: str) -> tuple[float, float]:
        """`fixed` and `prunable` of a dense update [bit]."""
        line = affine_update_bits(self.architecture, self.adapter, dtype)
        return float(line.fixed), float(line.prunable)

    def realisable_rates(self) -> list[float]:
        """Pruning rates at which one more unit goes, ascending from 0."""
        return distinct_rates(self.architecture)

    def longest_step(self, client: int) -> Step:
        """A batch of the longest row that a client holds."""
        longest = int(self.shards.train.length[self.shards.parts[client]].max())
        return Step(self.shards.batch_size, longest)

    def memory_bytes(self, client: int) -> int:
        """Peak memory of that batch on the whole model."""
        step = self.longest_step(client)
        return self.of(step.batch_size, step.tokens).memory_bytes

    def split_flops(self, rows: int, tokens: int, split_point: int) -> SplitFlops:
        """Operations on both sides of the cut."""
        return SplitFlops.of(self.of(rows, tokens), split_point)

    def split_memory_bytes(self, client: int, split_point: int, keeps_labels: bool) -> int:
        """Peak memory of the client half, with the LM head and the loss where labels stay."""
        step = self.longest_step(client)
        half, rest = split_workload(
            self.architecture, self.adapter, step, split_point, precision=self.precision
        )
        head = rest.parts[-1].memory_bytes + rest.working_bytes if keeps_labels else 0
        return half.memory_bytes + head

    def split_points(self, client: int, keeps_labels: bool) -> list[int]:
        """The split points whose client half fits the client's memory, ascending.

        Raises InputError, naming the client, where not even one block fits.
        """
        key = (client, keeps_labels)
        if key not in self._points:
            points = list(range(1, self.architecture.block_count))
            if not points:
                raise InputError("model", "a single block", "a model of at least 2 blocks to split")
            device = self.devices[client]

            def needed(point: int) -> int:
                return self.split_memory_bytes(client, point, keeps_labels)

            refuse_small_memory(f"client {client}", device, needed(points[0]))
            fitting = bisect_right(points, device.usable_memory_bytes, key=needed)
            self._points[key] = points[:fitting]
        return self._points[key]

    def least_rate(self, client: int) -> float:
        """The pruning rate at which a client fits its memory; 0 where the whole model does.

        Raises InputError, naming the client, where not even the highest rate fits.
        """
        usable = self.devices[client].usable_memory_bytes
        if self.memory_bytes(client) <= usable:
            return 0.0
        try:
            return rate_that_fits(
                self.architecture, self.adapter, self.longest_step(client), usable, self.precision
            )
        except InputError as error:
            raise InputError(
                f"memory of client {client}", f"{usable:.3g} bytes usable", error.allowed,
                error.remedy,
            ) from None  # fmt: skip

    def refuse_small_memory(self, method: Method) -> None:
        """Raise InputError for the first client whose device cannot hold its training."""
        for client, device in enumerate(self.devices):
            if method.split is not None:
                self.split_points(client, method.split.labels_at == "client")
            elif method.planner.prunes:
                self.least_rate(client)
            else:
                refuse_small_memory(f"client {client}", device, self.memory_bytes(client))
