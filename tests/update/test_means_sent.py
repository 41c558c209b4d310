"""The mean over senders against a plain loop, and at its limits; who sent is what the masks say."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from airtune.round_plan import ClientPlan
from airtune.update.codec import Codec, shapes_of
from airtune.update.means import FactorMean, OverlapMean, SentMean
from airtune.update.rank_sparse import RankSparseCodec
from airtune.update.server import Update
from airtune.update.top_k import TopKCodec
from tests.update.adapters import MATRICES, random_factors

RANKS_OF_CLIENT = [(0, 1), (1, 2), (1,)]
"""Ranks that travel of every matrix: rank 1 from all, rank 3 from nobody."""


def sent_by(client: int) -> dict[str, Tensor]:
    masks = {}
    for name, shape in shapes_of(random_factors(0)).items():
        masks[name] = torch.zeros(shape, dtype=torch.bool)
        ranks = [rank for rank in RANKS_OF_CLIENT[client] if rank < MATRICES[name[0]][0]]
        (masks[name] if "lora_A" in name else masks[name].T)[ranks] = True
    return masks


def sparse_updates() -> list[Update]:
    updates = []
    for client in range(3):
        sent = sent_by(client)
        change = {name: x * sent[name] for name, x in random_factors(client + 1).items()}
        if client == 1:  # rounded to 0 on its way, and sent all the same
            change["y.lora_A.weight"][1, 0] = 0.0
        updates.append(Update(client, 1.0 + client, change, sent=sent))
    return updates


def test_against_a_plain_loop() -> None:
    state, updates = random_factors(0), sparse_updates()
    merged = SentMean().aggregate(state, updates)
    several = nobody = zeros = 0
    for name, value in state.items():
        for place in range(value.numel()):
            sent = [
                (u.weight, float(u.change[name].flatten()[place]))
                for u in updates
                if u.sent is not None and bool(u.sent[name].flatten()[place])
            ]
            several, nobody = several + (len(sent) > 1), nobody + (not sent)
            zeros += any(x == 0 for _, x in sent)
            expected = float(value.flatten()[place])
            if sent:
                expected += sum(w * x for w, x in sent) / sum(w for w, _ in sent)
            assert abs(float(merged[name].flatten()[place]) - expected) < 1e-5
    assert several
    assert nobody
    assert zeros


def test_whole_updates_have_the_plain_mean() -> None:
    state = random_factors(0)
    updates = [Update(n, 1.0 + n, random_factors(n + 1)) for n in range(3)]
    plain = FactorMean().aggregate(state, updates)
    for name, value in SentMean().aggregate(state, updates).items():
        assert torch.allclose(value, plain[name], atol=1e-6)


def test_without_masks_of_their_own_slices_count_where_they_were_trained() -> None:
    state = random_factors(0)
    updates = [Update(n, 1.0, random_factors(n + 1), sent_by(n)) for n in range(3)]
    overlap = OverlapMean().aggregate(state, updates)
    for name, value in SentMean().aggregate(state, updates).items():
        assert torch.equal(value, overlap[name])


CODECS: dict[str, Callable[[int], Codec]] = {
    "ranks": lambda seed: RankSparseCodec("random", "int8", seed=seed),
    "top-k": lambda seed: TopKCodec("int8", seed),
}


@pytest.mark.parametrize("codec", list(CODECS))
def test_int8_is_unbiased(codec: str) -> None:
    """`E[merged] = start + mean over those who sent`, whatever rounding makes of their numbers.

    A merged coordinate is off by a mean of rounding errors, each of variance at most s^2 / 4 for
    the largest scale s, so the mean over D draws has a standard deviation of at most s / 2 sqrt D.
    """
    state = {name: torch.zeros_like(x) for name, x in random_factors(0).items()}
    changes = [random_factors(n + 1, scale=0.004) for n in range(3)]
    for change in changes:
        # Large numbers in every block make the others small beside its scale.
        for tensor in change.values():
            tensor[:, 0] = 1.0
    draws, scale = 200, 1.0 / 127
    error = {name: torch.zeros(x.shape, dtype=torch.float64) for name, x in state.items()}
    lost = 0
    for seed in range(draws):
        updates = [received(CODECS[codec](seed), n, change) for n, change in enumerate(changes)]
        merged = SentMean().aggregate(state, updates)
        for name in state:
            masks = [u.sent[name].double() for u in updates if u.sent is not None]
            total = sum(m * x[name] for m, x in zip(masks, changes, strict=True))
            count = sum(masks).clamp_min(1.0)  # type: ignore[union-attr]
            error[name] += (merged[name] - total / count) / draws
            lost += sum(
                int((m.bool() & (u.change[name] == 0)).sum())
                for m, u in zip(masks, updates, strict=True)
            )
    assert lost > draws
    for name, mean in error.items():
        assert mean.abs().max() <= 6 * scale / (2 * draws**0.5), name


def received(codec: Codec, client: int, change: dict[str, Tensor]) -> Update:
    plan, shapes = ClientPlan(client, 0.0, 0.1, 4, sparsity=0.4), shapes_of(change)
    payload = codec.encode(change, plan)
    decoded = codec.decode(payload, shapes, plan)
    return Update(client, 1.0, decoded, codec.trained(plan), codec.sent(payload, shapes, plan))
