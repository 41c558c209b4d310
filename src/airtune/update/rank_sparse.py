"""A mask of ranks and the factors of the ranks in it: what a SOFT client sends.

An adapted matrix is `B A = sum_i b_i a_i^T`, b_i column i of B (out x rank), a_i row i of A
(rank x in). Where the b_i and the a_i are orthogonal, the norm of a rank's term IS a singular
value, and keeping the K largest terms is the best approximation of rank K (Eckart and Young, 1936).
So no SVD and no product B A is ever made (in the manner of SOFT, Kim and Choi, arXiv 2505.00333).

The frame holds `mask`, one bit per rank of every adapted matrix, packed to bytes in the adapter's
order; `update`, the changes of the kept ranks as one flat tensor, matrix by matrix, first the rows
of A, then the columns of B; and, on request, `energy`, the report that the next plan is made
from. A rank that was not sent did not change. The plan fixes how many ranks of each matrix are
kept, so the length is known before training; which ones, the client decides by fresh importance.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import FactorPair, factor_pairs
from airtune.update.codec import Codec, Shapes, TensorMap, flatten, pack, unpack
from airtune.update.quantise import check_format, content_draws, from_wire, to_wire, wire_frame
from airtune.workload.payload import frame_bytes

RankValues: TypeAlias = dict[str, Tensor]
"""Adapted matrix -> one number per rank, [rank]; a mask where the numbers are true or false."""


def norm_importance(state: TensorMap) -> RankValues:
    """`I_i = ||b_i|| ||a_i||`, the norm of each rank's term in a trained adapter."""
    pairs = factor_pairs(state)
    # Over columns, torch's vector_norm takes 2 to 5 times as long as the sum of squares.
    columns = [state[pair.lora_b].square().sum(0) for pair in pairs]
    rows = [torch.linalg.vector_norm(state[pair.lora_a], dim=1) for pair in pairs]
    # What is left to do is small: all matrices at once, or the calls would cost more than the work.
    norms = torch.cat(columns).sqrt_().mul_(torch.cat(rows))
    pieces = torch.split(norms, [len(part) for part in rows])
    return {pair.matrix: piece for pair, piece in zip(pairs, pieces, strict=True)}


def change_importance(start: TensorMap, change: TensorMap) -> RankValues:
    """`I_i = ||b_i a_i^T - b0_i a0_i^T||`, the norm of what training did to each rank's term.

    With `b = b0 + db`, `a = a0 + da` the difference is `db a^T + b0 da^T`, so

        I^2 = ||db||^2 ||a||^2 + ||b0||^2 ||da||^2 + 2 (db . b0) (a . da),

    exact and without cancellation of large terms: in fp32 it is good to 1e-6 relative however
    small the change is, where `||b||^2 ||a||^2 + ||b0||^2 ||a0||^2 - 2 (b . b0) (a . a0)` loses
    every digit. `start` is the adapter that training began from.
    """
    importance: RankValues = {}
    for pair in factor_pairs(start):
        b_start, b_change = start[pair.lora_b], change[pair.lora_b]
        a_change = change[pair.lora_a]
        a_now = start[pair.lora_a] + a_change
        squared = (
            b_change.square().sum(0) * a_now.square().sum(1)
            + b_start.square().sum(0) * a_change.square().sum(1)
            + 2.0 * (b_change * b_start).sum(0) * (a_now * a_change).sum(1)
        )
        # Opposite changes of a and b may cancel to a rounding error below zero.
        importance[pair.matrix] = squared.clamp_min(0.0).sqrt()
    return importance


def changed_ranks(change: TensorMap) -> RankValues:
    """Masks of the ranks that changed at all, in A or in B."""
    return {
        pair.matrix: change[pair.lora_b].ne(0).any(0) | change[pair.lora_a].ne(0).any(1)
        for pair in factor_pairs(change)
    }


def energies(importance: Mapping[str, Tensor]) -> RankValues:
    """Squared importance: what leaving a rank out adds to the squared error of B A."""
    return {matrix: values.square() for matrix, values in importance.items()}


def dropped_share(importance: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> float:
    """Energy of the ranks outside the masks over that of all ranks, in [0, 1]; 0 of nothing."""
    total = sum(float(values.double().square().sum()) for values in importance.values())
    lost = sum(
        float(values.double().square()[~masks[matrix]].sum())
        for matrix, values in importance.items()
    )
    return lost / total if total > 0 else 0.0


def largest_ranks(importance: Mapping[str, Tensor], kept: Sequence[int]) -> RankValues:
    """Masks of the `kept[m]` most important ranks of each matrix; of equals, the lower index.

    Raises InputError for a count that its matrix cannot keep.
    """
    _check_counts([len(values) for values in importance.values()], kept)
    # All matrices in one sort: a call a matrix would cost more than the norms did.
    table = torch.nn.utils.rnn.pad_sequence(
        list(importance.values()), batch_first=True, padding_value=-math.inf
    )
    order = torch.argsort(table, dim=1, descending=True, stable=True)
    chosen = torch.arange(table.shape[1]) < torch.tensor(kept)[:, None]
    masks = torch.zeros_like(chosen).scatter_(1, order, chosen).unbind()
    return {
        matrix: mask if len(mask) == len(values) else mask[: len(values)]
        for (matrix, values), mask in zip(importance.items(), masks, strict=True)
    }


def _check_counts(ranks: Sequence[int], kept: Sequence[int]) -> None:
    if len(kept) != len(ranks):
        raise InputError("kept ranks", len(kept), f"one count for each of {len(ranks)} matrices")
    for count, rank in zip(kept, ranks, strict=True):
        if not 0 <= count <= rank:
            raise InputError("kept ranks", count, f"between 0 and the rank, {rank}")


def counts_per_layer(ranks: Sequence[int], sparsity: float) -> tuple[int, ...]:
    """The same share of every matrix: rank - floor(sparsity x rank), at least 1 of each."""
    _check_sparsity(sparsity)
    # 1e-9: 0.3 x 10 must remove 3 ranks, and 0.29999999999999998 x 10 is below 3.
    return tuple(max(1, rank - math.floor(sparsity * rank + 1e-9)) for rank in ranks)


def counts_global(importance: Mapping[str, Tensor], sparsity: float) -> tuple[int, ...]:
    """The same share of all ranks together, wherever they matter most, at least one in all.

    The importances may be those of an earlier round or of another client, as shares: only their
    order counts. Of equals, the earlier matrix and the lower index.
    """
    _check_sparsity(sparsity)
    sizes = [len(values) for values in importance.values()]
    total = max(1, sum(sizes) - math.floor(sparsity * sum(sizes) + 1e-9))
    values = torch.cat(list(importance.values()))
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[torch.argsort(values, descending=True, stable=True)[:total]] = True
    return tuple(int(mask.sum()) for mask in torch.split(chosen, sizes))


def _check_sparsity(sparsity: float) -> None:
    if not 0.0 <= sparsity < 1.0:
        raise InputError("sparsity", sparsity, "a share from 0 to below 1, of what is removed")


IMPORTANCES = ("change", "norm", "random")
CHOICES = ("largest", "drawn")

KeptCounts: TypeAlias = Callable[[Sequence[int], ClientPlan], Sequence[int]]
"""(rank of each matrix, plan) -> how many ranks of each matrix travel."""


def counts_by_plan(ranks: Sequence[int], plan: ClientPlan) -> Sequence[int]:
    """The plan's `kept_ranks`, or its sparsity in every matrix alike."""
    return counts_per_layer(ranks, plan.sparsity) if plan.kept_ranks is None else plan.kept_ranks


@final
@dataclass(frozen=True, eq=False)
class RankSparseCodec(Codec):
    """The most important ranks of each matrix: by the norm of their `change`, by their `norm` in
    the trained adapter (the paper's), or at `random` (a baseline).

    Importance needs the adapter that training began from, so the codec is bound to a round:
    `codec.in_round(broadcast)`. Decoding does not. Ranks that changed come before ranks that did
    not, whatever their importance. `report` adds every rank's importance, over the root of the sum
    of squares, in fp16: squared, its share of the update's energy.
    """

    honours = frozenset({Decision.SPARSITY, Decision.KEPT_RANKS})
    on_factors = True
    importance: str = "change"
    dtype: str = "fp32"
    report: bool = False
    seed: int = 0
    kept: KeptCounts = counts_by_plan
    broadcast: TensorMap | None = None
    choice: str = "largest"

    def __post_init__(self) -> None:
        check_format(self.dtype)
        if self.choice not in CHOICES:
            raise InputError("codec.choice", self.choice, f"one of {', '.join(CHOICES)}")
        if self.importance not in IMPORTANCES:
            raise InputError(
                "codec.importance", self.importance, f"one of {', '.join(IMPORTANCES)}"
            )

    def in_round(self, broadcast: TensorMap) -> "RankSparseCodec":
        """This codec for the round that began with this adapter, as the client decoded it."""
        return replace(self, broadcast=broadcast)

    def encode(self, change: TensorMap, plan: ClientPlan) -> bytes:
        pairs = factor_pairs(change)
        importance = self._importance(change, plan)
        ranks = [len(values) for values in importance.values()]
        keys = importance
        if self.choice == "drawn":
            keys = _lots(importance, content_draws(self.seed, plan.client, flatten(change)))
        masks = largest_ranks(_changed_first(keys, change), self.kept(ranks, plan))
        vector = torch.cat([_kept(change, pair, masks[pair.matrix]) for pair in pairs])
        draws = partial(content_draws, self.seed, plan.client, vector)
        frame = to_wire("update", vector, self.dtype, draws)
        frame["mask"] = torch.from_numpy(np.packbits(torch.cat(list(masks.values())).numpy()))
        if self.report:
            values = torch.cat(list(importance.values()))
            length = torch.linalg.vector_norm(values).clamp_min(torch.finfo(values.dtype).tiny)
            frame["energy"] = (values / length).to(torch.float16)
        return pack(frame)

    def decode(self, payload: bytes, template: Shapes, plan: ClientPlan) -> dict[str, Tensor]:
        frame = unpack(payload)
        vector = from_wire(frame, "update", self.dtype)
        masks = self._masks(frame, template, plan)
        counts = [int(mask.sum()) for mask in masks.values()]
        if len(vector) != _numbers(template, counts):
            raise InputError(
                "payload", f"{len(vector)} numbers", f"{_numbers(template, counts)} for its mask"
            )
        return _scatter(vector, masks, template)

    def sent(self, payload: bytes, template: Shapes, plan: ClientPlan) -> TensorMap:
        """The mask of the payload: whole rows of A and whole columns of B."""
        masks = self._masks(unpack(payload), template, plan)
        chosen: dict[str, Tensor] = {}
        for pair in factor_pairs(template):
            mask = masks[pair.matrix]
            chosen[pair.lora_a] = mask[:, None].expand(template[pair.lora_a])
            chosen[pair.lora_b] = mask.expand(template[pair.lora_b])
        return chosen

    def _masks(self, frame: TensorMap, template: Shapes, plan: ClientPlan) -> RankValues:
        """The ranks that travelled; InputError unless they are as many as planned."""
        pairs, ranks = factor_pairs(template), matrix_ranks(template)
        masks = _split(_unpack_bits(frame["mask"], sum(ranks)), pairs, ranks)
        counts = [int(masks[pair.matrix].sum()) for pair in pairs]
        if counts != list(self.kept(ranks, plan)):
            raise InputError("payload", f"a mask of {counts} ranks", "as many ranks as planned")
        return masks

    def payload_bits(self, shapes: Shapes, plan: ClientPlan) -> int:
        ranks = matrix_ranks(shapes)
        numbers = _numbers(shapes, self.kept(ranks, plan))
        frame = dict(wire_frame("update", numbers, self.dtype))
        frame["mask"] = ("U8", [-(-sum(ranks) // 8)])
        if self.report:
            frame["energy"] = ("F16", [sum(ranks)])
        return 8 * frame_bytes(frame)

    def reported(self, payload: bytes, template: Shapes) -> list[float] | None:
        """`reported_energies` of all matrices, one after another; None without a report."""
        if not self.report:
            return None
        numbers: list[float] = torch.cat(
            list(self.reported_energies(payload, template).values())
        ).tolist()
        return numbers

    def reported_energies(self, payload: bytes, template: Shapes) -> RankValues:
        """Each rank's share of its client's energy [rank], from the report; 0 without a change."""
        frame = unpack(payload)
        if "energy" not in frame:
            raise InputError("payload", "without a report", "encoded with report=True")
        shares = frame["energy"].double().square()
        pairs, ranks = factor_pairs(template), matrix_ranks(template)
        return _split(shares / shares.sum().clamp_min(1e-300), pairs, ranks)

    def _importance(self, change: TensorMap, plan: ClientPlan) -> RankValues:
        if self.importance == "random":
            return _random_importance(change, plan, self.seed)
        if self.broadcast is None:
            raise ValueError("bind the codec first: codec.in_round(broadcast)")
        if self.importance == "change":
            return change_importance(self.broadcast, change)
        trained = {name: self.broadcast[name] + tensor for name, tensor in change.items()}
        return norm_importance(trained)


def matrix_ranks(shapes: Shapes) -> list[int]:
    """The rank of each adapted matrix."""
    return [shapes[pair.lora_a][0] for pair in factor_pairs(shapes)]


def rank_payload(shapes: Shapes) -> list[int]:
    """Numbers that travel for one rank of each matrix: in + out."""
    return [shapes[pair.lora_a][1] + shapes[pair.lora_b][0] for pair in factor_pairs(shapes)]


def _numbers(shapes: Shapes, kept: Sequence[int]) -> int:
    return sum(count * size for count, size in zip(kept, rank_payload(shapes), strict=True))


def _random_importance(change: TensorMap, plan: ClientPlan, seed: int) -> RankValues:
    draws = content_draws(seed, plan.client, flatten(change))
    return {
        pair.matrix: torch.from_numpy(draws.random(change[pair.lora_a].shape[0], dtype=np.float32))
        for pair in factor_pairs(change)
    }


def _lots(importance: RankValues, draws: np.random.Generator) -> RankValues:
    """Keys whose K largest are a draw of K ranks without replacement, by energy.

    Energy over a standard exponential variable: Efraimidis and Spirakis, "Weighted random sampling
    with a reservoir", 2006, in the form of an exponential race.
    """
    return {
        matrix: values.square() / torch.from_numpy(draws.exponential(size=len(values))).float()
        for matrix, values in importance.items()
    }


def _changed_first(importance: Mapping[str, Tensor], change: TensorMap) -> RankValues:
    """The same order within both groups; unchanged ranks get keys below 0.

    Bits spent on a rank that did not change carry no information. It also makes encoding
    idempotent: what was decoded has its changes in exactly the ranks that were kept.
    """
    changed = changed_ranks(change)
    return {
        matrix: torch.where(changed[matrix], values, -1.0 / (1.0 + values))
        for matrix, values in importance.items()
    }


def _kept(change: TensorMap, pair: FactorPair, mask: Tensor) -> Tensor:
    return torch.cat([change[pair.lora_a][mask].flatten(), change[pair.lora_b].T[mask].flatten()])


def _unpack_bits(packed: Tensor, count: int) -> Tensor:
    bits = np.unpackbits(packed.numpy())
    if len(bits) < count or bits[count:].any():
        raise InputError("payload", f"a mask of {len(bits)} bits", f"a mask of {count} ranks")
    return torch.from_numpy(bits[:count].astype(np.bool_))


def _split(values: Tensor, pairs: Sequence[FactorPair], ranks: Sequence[int]) -> RankValues:
    pieces = torch.split(values, list(ranks))
    return {pair.matrix: piece for pair, piece in zip(pairs, pieces, strict=True)}


def _scatter(vector: Tensor, masks: Mapping[str, Tensor], template: Shapes) -> dict[str, Tensor]:
    change = {name: torch.zeros(shape) for name, shape in template.items()}
    start = 0
    for pair in factor_pairs(template):
        mask = masks[pair.matrix]
        for factor in (change[pair.lora_a], change[pair.lora_b].T):
            end = start + int(mask.sum()) * factor.shape[1]
            factor[mask] = vector[start:end].view(-1, factor.shape[1])
            start = end
    return change
