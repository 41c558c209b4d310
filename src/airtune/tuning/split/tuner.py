"""The tuner of split training: a cohort's parties in one round, from plans to halves."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from airtune.round_plan import MAIN_SERVER, Decision
from airtune.tuning.adapter import AdapterState
from airtune.tuning.kept import kept_part, own_part, received_part, sent_mark
from airtune.tuning.local import LocalResult
from airtune.tuning.pruning.fixed import FixedSlices
from airtune.tuning.pruning.slice import gather, scatter
from airtune.tuning.split.client import ClientHalf, SplitClient, SplitReport
from airtune.tuning.split.model import CutLink, SplitModel
from airtune.tuning.split.round import SplitSettings, split_round
from airtune.tuning.tuner import CohortTuner, Party, PartyResult


@final
@dataclass(frozen=True)
class SplitTuner(CohortTuner):
    """`split_round` for the parties of a round; the main server is one of them.

    `trained_point` turns a plan's split point into one of the model that is trained.
    """

    honours = frozenset(
        {Decision.SPLIT, Decision.PRUNING, Decision.CUT_DROPOUT, Decision.CUT_FORMAT}
    )
    requires = frozenset({Decision.SPLIT})
    on_factors = True
    model: Any
    cut: CutLink
    settings: SplitSettings
    trained_point: Callable[[int], int]
    slices: FixedSlices | None = None

    def __post_init__(self) -> None:
        if self.slices is None:
            object.__setattr__(self, "honours", self.honours - {Decision.PRUNING})

    @property
    def keeps_own(self) -> bool:
        return self.settings.keeps_own

    def crosses_as(self, split: Any) -> bool:
        mine = self.cut, self.settings.labels_at, self.settings.aggregation_ratio
        return mine == (split.cut, split.labels_at, split.aggregation_ratio)

    def tune_together(self, parties: Sequence[Party]) -> list[PartyResult | None]:
        clients = [party for party in parties if party.plan.client != MAIN_SERVER]
        (server,) = (party for party in parties if party.plan.client == MAIN_SERVER)
        context = server.context
        begins = [self._begin(party) for party in clients]
        smaller = self._smaller({party.plan.pruning_rate for party in clients})
        result = split_round(
            SplitModel(self.model),
            server.start,
            [
                self._client(party, begin, smaller.get(party.plan.pruning_rate))
                for party, begin in zip(clients, begins, strict=True)
            ],
            context.training,
            self.cut,
            self.settings,
            seed=context.seed,
            round_index=context.round_index,
            server_carried=context.carried,
        )
        party_of = {party.plan.client: party for party in clients}
        begin_of = {p.plan.client: begin for p, begin in zip(clients, begins, strict=True)}
        tuned: dict[int, PartyResult] = {
            report.client: PartyResult(
                self._result(party_of[report.client], report, begin_of[report.client]),
                report.cut,
                report.result.payload,
            )
            for report in result.reports
        }
        losses = tuple(report.mean_loss for report in result.reports)
        tokens = sum(report.label_tokens for report in result.reports)
        # Where the client with the earliest cut fell silent, no party trained the blocks behind it.
        state = {**server.start, **result.server}
        tuned[MAIN_SERVER] = PartyResult(
            LocalResult(
                state, losses, tokens, dict(result.server_carried), measured=result.measured
            )
        )
        return [tuned.get(party.plan.client) for party in parties]

    def _begin(self, party: Party) -> AdapterState:
        """Where a client's half begins: what came down, or its own where nothing did."""
        own = {} if party.plan.gets_half else own_part(party.context.carried)
        return {name: own.get(name, value) for name, value in party.start.items()}

    def _smaller(self, rates: Iterable[float]) -> dict[float, SplitModel]:
        """The models of clients whose blocks are pruned, by their rates."""
        if self.slices is None:
            return {}
        return {rate: SplitModel(self.slices.sliced(rate)) for rate in rates if rate}

    def _result(self, party: Party, report: SplitReport, begin: AdapterState) -> LocalResult:
        """The client's half after the round, in whole shapes; what it keeps of it, and what its
        change is from."""
        state, rate = report.state, party.plan.pruning_rate
        if rate and self.slices is not None:
            state = scatter(begin, self.slices.cuts(rate), state)
        result = LocalResult(state, report.losses, report.label_tokens, dict(report.carried))
        if not self.settings.keeps_own:
            return result
        received = party.start if party.plan.gets_half else received_part(party.context.carried)
        kept = (
            sent_mark(party.context.round_index)
            if party.plan.sends_half
            else kept_part(state, received)
        )
        base = {name: received.get(name, value) for name, value in party.start.items()}
        return replace(result, carried={**result.carried, **kept}, base=base)

    @contextmanager
    def client_half(self, party: Party) -> Iterator[ClientHalf]:
        context, model = party.context, SplitModel(self.model)
        half = ClientHalf(
            model,
            party.start,
            self._client(party, party.start),
            context.training,
            self.cut,
            keeps_labels=self.settings.labels_at == "client",
            seed=context.seed,
            round_index=context.round_index,
        )
        with torch.random.fork_rng(devices=[]), model.dropout():
            yield half

    def _client(
        self, party: Party, begin: AdapterState, smaller: SplitModel | None = None
    ) -> SplitClient:
        if smaller is not None and self.slices is not None:
            begin = gather(begin, self.slices.cuts(party.plan.pruning_rate))
        point = party.plan.split_point
        assert point is not None, "every client of a split round has a split point"
        return SplitClient(
            party.plan.client,
            self.trained_point(point),
            party.context.batches,
            party.weight,
            party.context.carried,
            begin,
            party.link,
            party.plan.cut_dropout,
            party.plan.cut_format,
            smaller,
        )
