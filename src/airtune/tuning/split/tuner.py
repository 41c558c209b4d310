"""The tuner of a split model: client halves and the main server's half, step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from airtune.round_plan import MAIN_SERVER, Decision
from airtune.tuning.cohort_tuner import CohortTuner, Party, PartyResult
from airtune.tuning.local import LocalResult
from airtune.tuning.split.client import SplitClient
from airtune.tuning.split.cut_link import CutLink
from airtune.tuning.split.model import SplitModel
from airtune.tuning.split.split_round import SplitSettings, split_round


@final
@dataclass(frozen=True)
class SplitTuner(CohortTuner):
    """`split_round` for the parties of a round; the main server is one of them.

    `trained_point` turns a plan's split point into one of the model that is trained.
    """

    honours = frozenset({Decision.SPLIT})
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    model: Any
    cut: CutLink
    settings: SplitSettings
    trained_point: Callable[[int], int]

    def tune_together(self, parties: Sequence[Party]) -> list[PartyResult]:
        clients = [party for party in parties if party.plan.client != MAIN_SERVER]
        (server,) = (party for party in parties if party.plan.client == MAIN_SERVER)
        context = server.context
        result = split_round(
            SplitModel(self.model),
            server.start,
            [self._client(party) for party in clients],
            context.training,
            self.cut,
            self.settings,
            seed=context.seed,
            round_index=context.round_index,
            server_carried=context.carried,
        )
        tuned = {
            report.client: PartyResult(
                LocalResult(report.state, report.losses, report.label_tokens, dict(report.carried)),
                report.cut,
            )
            for report in result.reports
        }
        losses = tuple(report.mean_loss for report in result.reports)
        tokens = sum(report.label_tokens for report in result.reports)
        # Where the client with the earliest cut fell silent, nobody trained the blocks behind it.
        state = {**server.start, **result.server}
        tuned[MAIN_SERVER] = PartyResult(
            LocalResult(state, losses, tokens, dict(result.server_carried))
        )
        return [tuned[party.plan.client] for party in parties]

    def _client(self, party: Party) -> SplitClient:
        point = party.plan.split_point
        assert point is not None, "every client of a split round has a split point"
        return SplitClient(
            party.plan.client,
            self.trained_point(point),
            party.context.batches,
            party.weight,
            party.context.carried,
            party.start,
        )
