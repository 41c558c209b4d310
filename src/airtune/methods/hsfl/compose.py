"""The composition of hsfl: cuts of the clients' own, halves that stay with them."""

from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.hsfl.options import HsflSection
from airtune.methods.split_parts import KeptHalves


def compose(bench: Bench, options: HsflSection) -> Method:
    """Plan the cuts, train both sides together, keep the client halves at the clients."""
    halves = KeptHalves(
        "hsfl",
        options.cuts,
        options.split_point,
        options.client_halves,
        options.aggregate_every,
    )
    return halves.compose(bench, options, options.labels_at, options.server_side)
