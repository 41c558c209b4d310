"""The composition of epsl: one cut, own halves, gradients aggregated over clients."""

from dataclasses import asdict, replace

from airtune.federated.method import Exchange, Method
from airtune.methods.bench import Bench
from airtune.methods.epsl.options import EpslSection
from airtune.methods.epsl.recorded import Measured
from airtune.methods.split_parts import KeptHalves, own_losses


def compose(bench: Bench, options: EpslSection) -> Method:
    """Plan one cut, aggregate gradients, keep the client halves at the clients."""
    halves = KeptHalves(
        "epsl", "common", options.split_point, options.client_halves, options.aggregate_every
    )
    method = halves.compose(
        bench,
        options,
        aggregation_ratio=options.aggregation_ratio,
        compares=options.cosine == "measured",
    )
    return replace(method, measure=measure)


def measure(exchange: Exchange) -> dict[str, float | None]:
    """The record's `measured`."""
    found = exchange.trained
    return asdict(
        Measured(
            **own_losses(exchange),
            cosine=found.get("cosine"),
            backward_rows=found.get("backward_rows"),
        )
    )
