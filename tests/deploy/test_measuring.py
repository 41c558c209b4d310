"""A measured deployment over the loopback interface: rates, stamps, emulated computing."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from airtune.deploy.links import HEADS, LinkCounters, LinksError, ShapedLinks
from airtune.deploy.messages import Measuring
from airtune.deploy.meter import Meter
from airtune.experiment.run import Run
from airtune.validation.meter import ValidatingMeter
from airtune.validation.options import refuse_rate
from airtune.validation.rates import Rates
from airtune.validation.result import Arm, read_arm
from airtune.validation.rows import Row
from airtune.validation.session import Place
from airtune.validation.wire import Counters, LinksAway, LinksOwner
from tests.deploy.harness import Deployment, deployment

SLOW = """
slow: {training_flop_rate: 2.0e+9, memory_bytes: 4.0e+9, computing_power_w: 5, tx_power_dbm: 23,
  unusual_values: training_flop_rate, sources: {training_flop_rate: x, memory_bytes: x,
  computing_power_w: x, tx_power_dbm: x}}
"""


class Recorded:
    """`wire.Links` that only remembers."""

    def __init__(self) -> None:
        self.asked: list[dict[int, tuple[float, float]]] = []

    def set(self, rates: Rates, counters: Sequence[int] = ()) -> Counters:
        self.asked.append(dict(rates))
        return {client: LinkCounters(0, 0, 0, 0) for client in counters}


def measured(place: Path, links: Recorded, *settings: str, emulates: bool) -> Deployment:
    (place / "slow.yaml").write_text(SLOW)
    made = deployment(
        place,
        "clients.count=2",
        f"clients.device_file={place / 'slow.yaml'}",
        "clients.devices=slow",
        "training.batch_size=1",
        *settings,
    )
    arm = Place(place)
    made.folder = arm.run
    made.meter = ValidatingMeter(links, arm.measured, emulates=emulates)
    made.validates = True
    made.run()
    return made


def rows_of(made: Deployment) -> list[Row]:
    config = made.experiment.config
    return read_arm(Arm(config.method, config), Place(made.folder.parent))[0]


def test_links_have_the_rates_that_the_record_is_charged_with(tmp_path: Path) -> None:
    links = Recorded()
    made = measured(tmp_path, links, emulates=True)
    records = Run.open(made.folder).records
    # Before each round the rates, after it nothing but the counters.
    assert [bool(rates) for rates in links.asked] == [True, False, True, False]
    for record, rates in zip(records, links.asked[::2], strict=True):
        assert {entry.client: entry.rate_bps for entry in record.clients} == {
            client: up for client, (up, _) in rates.items()
        }
        bits = record.downlink_bits
        for entry in record.clients:
            assert bits / rates[entry.client][1] == pytest.approx(entry.broadcast_s)
    assert links.asked[0] != links.asked[2]
    rows = rows_of(made)
    stages = {(row.stage, row.client) for row in rows if row.round == 2 and row.client is not None}
    assert stages == {(s, c) for s in ("broadcast", "computing", "upload") for c in (0, 1)}
    for row in rows:
        if row.kind == "computing":
            # A client trains, then sleeps: never shorter than modelled.
            assert row.ratio is not None
            assert row.ratio > 0.999


def test_a_split_model_changes_rates_within_the_round(tmp_path: Path) -> None:
    links = Recorded()
    settings = "method=sflllm", "sflllm.server_flop_rate=2e9"
    made = measured(tmp_path, links, *settings, emulates=True)
    record = Run.open(made.folder).records[0]
    before, gradients, adapters, after = links.asked[:4]
    for entry in record.clients:
        k = entry.client
        assert entry.stages_s is not None
        assert before[k][0] == pytest.approx(entry.rate_bps)
        assert gradients[k][0] == 0.0
        down_s = np.float64(entry.cut_downlink_bits or 0) / gradients[k][1]
        assert down_s == pytest.approx(entry.stages_s["gradient"])
        assert adapters[k][0] == pytest.approx(entry.federated_rate_bps)
        assert adapters[k][1] == 0.0
    assert after == {}
    rows = {(row.stage, row.client): row for row in rows_of(made) if row.round == 1}
    for entry in record.clients:
        # Heads are in the size of messages down alone, whose payload the client does not state.
        assert rows["activations", entry.client].size == (entry.cut_uplink_bits or 0) // 8
        assert rows["adapter", entry.client].size == (entry.adapter_bits or 0) // 8
    served = rows["main server", None]
    assert served.predicted_s == record.server_s
    assert served.ratio is not None
    assert served.ratio > 0.999


def test_a_client_refuses_to_be_measured_by_any_other_server(tmp_path: Path) -> None:
    class Asking(Meter):
        def measuring(self, task: Any) -> Measuring:
            return Measuring()

    made = deployment(tmp_path, "clients.count=1")
    made.meter = Asking()
    made.start_server()
    thread = made.start_client(0)
    thread.join(240.0)
    assert "asks to be sent times" in str(made.errors["client 0"])


class Owned:
    """Links of an owner: what they are set to."""

    def __init__(self) -> None:
        self.now: dict[int, tuple[float, float]] = {}

    def all_rates(self, rates: dict[int, tuple[float, float]]) -> None:
        if any(up < 0 for up, _ in rates.values()):
            raise LinksError("A rate is below 0.")
        self.now |= rates

    def counters(self, client: int) -> LinkCounters:
        return LinkCounters(client, 1, 2, 3)


def test_the_server_asks_the_owner_of_the_links() -> None:
    links, (ours, theirs) = Owned(), socket.socketpair()
    LinksOwner(cast(ShapedLinks, links), ours)
    away = LinksAway(theirs.detach())
    found = away.set({0: (1e6, 2e6), 1: (3e6, 4e6)}, [1])
    assert found == {1: LinkCounters(1, 1, 2, 3)}
    away.set({0: (0.0, 5e6), 1: (6e6, 0.0)})
    assert links.now == {0: (1e6, 5e6), 1: (6e6, 4e6)}
    with pytest.raises(LinksError, match="below 0"):
        away.set({0: (-1.0, 1e6)})


def test_a_rate_that_no_link_can_have_is_refused() -> None:
    refuse_rate("the rate of client 0", 1e6)
    with pytest.raises(Exception, match="the rate of client 0 is 10 bit/s"):
        refuse_rate("the rate of client 0", 10.0)


def test_the_share_of_heads_is_that_of_full_frames() -> None:
    assert pytest.approx(1514 / 1448 - 1) == HEADS
