"""Error feedback: nothing that training did is lost for ever, whatever the codec leaves out."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from airtune.round_plan import ClientPlan
from airtune.tuning.local import LocalResult, TrainingSettings
from airtune.tuning.tuner import Tuner, TuningContext
from airtune.update.codec import shapes_of
from airtune.update.error_feedback import FeedbackTuner, holds_residual
from airtune.update.rank_sparse import RankSparseCodec
from airtune.update.top_k import TopKCodec
from tests.update.adapters import random_factors


@dataclass
class Steps(Tuner):
    """Adds given changes, round after round, and carries a moment of its own."""

    changes: list[dict[str, Any]]
    saw: list[set[str]] = field(default_factory=list)

    def tune(self, start: Any, plan: ClientPlan, context: TuningContext) -> LocalResult:
        self.saw.append(set(context.carried))
        change = self.changes[context.round_index]
        state = {name: value + change[name] for name, value in start.items()}
        return LocalResult(state, (1.0,), 1, {"0.exp_avg": torch.ones(2)})


@pytest.mark.parametrize("codec", [RankSparseCodec("change"), TopKCodec()])
def test_sent_and_carried_add_up_to_what_was_trained(codec: Any) -> None:
    start = random_factors(0)
    inner = Steps([random_factors(seed, scale=0.1) for seed in range(1, 5)])
    tuner, plan = FeedbackTuner(inner, codec), ClientPlan(0, 0.0, 0.1, 4, sparsity=0.6)
    carried: dict[str, Any] = {}
    sent = {name: torch.zeros_like(x) for name, x in start.items()}
    for index in range(4):
        context = TuningContext(None, [], TrainingSettings(), 0, index, carried)
        result = tuner.tune(start, plan, context)
        change = {name: result.state[name] - value for name, value in start.items()}
        bound = codec.in_round(start)
        decoded = bound.decode(bound.encode(change, plan), shapes_of(start), plan)
        sent = {name: sent[name] + decoded[name] for name in start}
        carried = dict(result.carried)
    assert holds_residual(carried)
    assert inner.saw[0] == set()
    assert inner.saw[1] == {"0.exp_avg"}, "the tuner inside never sees the residual"
    for name in start:
        trained = sum(change[name] for change in inner.changes)
        total = sent[name] + carried[f"residual/{name}"]
        assert torch.allclose(total, trained, atol=1e-6)
