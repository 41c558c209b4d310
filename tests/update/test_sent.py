"""The mean over senders against a plain loop, and at its limits."""

import torch

from airtune.round_plan import ClientPlan
from airtune.update.aggregate import FactorMean, Update
from airtune.update.codec import shapes_of
from airtune.update.rank_sparse import RankSparseCodec
from airtune.update.sent import SentMean
from tests.update.adapters import random_factors


def sparse_updates() -> list[Update]:
    codec, plan = RankSparseCodec("random"), ClientPlan(0, 0.0, 0.1, 4, sparsity=0.5)
    updates = []
    for client in range(3):
        change = random_factors(client + 1)
        decoded = codec.decode(codec.encode(change, plan), shapes_of(change), plan)
        updates.append(Update(client, 1.0 + client, decoded))
    return updates


def test_against_a_plain_loop() -> None:
    state, updates = random_factors(0), sparse_updates()
    merged = SentMean().aggregate(state, updates)
    several = nobody = 0
    for name, value in state.items():
        for place in range(value.numel()):
            changes = [(u.weight, float(u.change[name].flatten()[place])) for u in updates]
            sent = [(w, x) for w, x in changes if x != 0]
            several, nobody = several + (len(sent) > 1), nobody + (not sent)
            expected = float(value.flatten()[place])
            if sent:
                expected += sum(w * x for w, x in sent) / sum(w for w, _ in sent)
            assert abs(float(merged[name].flatten()[place]) - expected) < 1e-5
    assert several
    assert nobody


def test_whole_updates_have_the_plain_mean() -> None:
    state = random_factors(0)
    updates = [Update(n, 1.0 + n, random_factors(n + 1)) for n in range(3)]
    plain = FactorMean().aggregate(state, updates)
    for name, value in SentMean().aggregate(state, updates).items():
        assert torch.allclose(value, plain[name], atol=1e-6)
