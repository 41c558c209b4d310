"""Panels of a run's page: what varies is drawn, what does not is said, equal clients are one."""

from dataclasses import replace
from math import isclose, log2
from typing import Any

import numpy as np
import pytest

from airtune.report.alike import called, groups, one_value, stretches, thinned
from airtune.report.curves import Curve, log_ticks, loss_panels
from airtune.report.energy import energy_by_client
from airtune.report.latency import by_client, by_round
from airtune.report.learning import client_learning, learning_rate
from airtune.report.links import efficiency, link_panels, snr_db
from airtune.report.page import render, run_panels
from airtune.report.paths import constraint_panels, extra_panels
from airtune.report.real_time import real_time
from airtune.report.sentences import run_sentences
from airtune.report.style import Panel
from airtune.report.view import RunView
from tests.report.views import lines, read, records, view


def panel(made: Any) -> Panel:
    """The one panel that was made."""
    assert isinstance(made, Panel)
    return made


def equal_clients(rounds: int = 3, clients: int = 4) -> list[dict[str, Any]]:
    """Rounds in which every client is like every other, and every round like every other."""
    made = lines(rounds, clients)
    for number, record in enumerate(made, start=1):
        for entry in record["clients"]:
            entry.update(upload_s=1.0, rate_bps=2e6, bandwidth_hz=1e6, kept_ranks=[4, 2])
            entry.update(main_subchannels=[1])
            entry.pop("pruning_rate", None)
        record.update(latency_s=3.5, planned_latency_s=3.5, virtual_time_s=3.5 * number)
    return made


def test_what_is_equal_is_said_and_not_drawn() -> None:
    flat = view(read(equal_clients()), shannon=True)
    titles = [p.title for panels in run_panels(flat).values() for p in panels]
    assert titles == [
        "Loss against virtual time",
        "Loss against bytes sent up",
        "Loss against the clients' energy",
        "The cell in round 1",
    ]
    page = render(flat)
    for sentence in (
        "Every round took 3.5 s as planned: broadcast 0.5 s, computing 2 s, upload 1 s.",
        "Each of the 4 clients took the same mean time in the rounds it took part in: "
        "broadcast 0.5 s, computing 2 s, upload 1 s.",
        "Every client that took part spent 21 J in all rounds together.",
        "The uplink rate was 2 Mbit/s for every client in every round.",
        "The SNR of the uplink was 4.771 dB for every client in every round.",
    ):
        assert sentence in page


def test_equal_clients_share_a_bar_and_a_line() -> None:
    made = equal_clients()
    for record in made:
        record["clients"][3].update(energy_j=9.0, rate_bps=1e6 * record["round"], upload_s=1.1)
    seen = view(read(made))
    bars = panel(energy_by_client(seen)).figure.data[0]
    assert list(bars.y) == ["3 laptop-cpu", "0–2"]
    assert list(bars.x) == pytest.approx([27.0, 21.0])
    rate = next(p for p in link_panels(seen) if isinstance(p, Panel))
    assert [trace.name for trace in rate.figure.data] == ["0–2", "3 laptop-cpu"]
    assert list(rate.figure.data[1].y) == [1.0, 2.0, 3.0]
    assert list(panel(by_client(seen)).figure.data[0].y) == [
        "3 laptop-cpu, last 3×",
        "0–2, last 0×",
    ]


def test_energy_is_the_sum_of_the_records() -> None:
    made = lines(rounds=4, clients=3)
    for record in made:
        for entry in record["clients"]:
            entry["energy_j"] = 1000.0 * (entry["client"] + record["round"])
    drawn = panel(energy_by_client(view(read(made)))).figure
    assert drawn.layout.xaxis.title.text == "energy [kJ]"
    assert list(drawn.data[0].x) == pytest.approx([18.0, 14.0, 10.0])


def test_snr_inverts_shannons_formula() -> None:
    entry = replace(records(1, 1)[0].clients[0], bandwidth_hz=2e6)
    for snr in (1e-9, 0.5, 1e4):
        seen = replace(entry, rate_bps=2e6 * log2(1 + snr))
        found = snr_db(seen)
        assert found is not None
        assert isclose(10 ** (found / 10), snr, rel_tol=1e-6)
    huge = snr_db(replace(entry, rate_bps=2e6 * 5000.0))
    assert huge == pytest.approx(50000 * np.log10(2.0))
    assert snr_db(replace(entry, rate_bps=0.0)) is None
    assert efficiency(replace(entry, bandwidth_hz=0.0)) is None


def test_many_clients_are_a_median_and_a_band() -> None:
    made = lines(rounds=3, clients=200)
    seen = view(read(made))
    over, spread = [p for p in link_panels(seen) if isinstance(p, Panel)][:2]
    assert [trace.name for trace in over.figure.data] == [
        "10 to 90 % of the clients",
        "median of the clients",
    ]
    # Client k has k + 1 Mbit/s.
    assert list(over.figure.data[1].y) == [100.5] * 3
    assert over.figure.data[0].y[0] == pytest.approx(np.percentile(np.arange(1, 201), 90))
    x, y = spread.figure.data[0].x, spread.figure.data[0].y
    assert (x[0], x[-1], y[-1]) == (1.0, 200.0, 1.0)
    assert len(x) == 200
    page = render(seen)
    assert len(page.encode()) < 1.2e6
    assert "40 " in page


@pytest.mark.parametrize("rounds", [pytest.param(400), pytest.param(1600, marks=pytest.mark.slow)])
def test_a_long_run_of_many_clients_stays_small(rounds: int) -> None:
    seen = view(records(rounds, 20 if rounds == 400 else 60), shannon=True)
    assert len(render(seen).encode()) < 1.5e6
    bars = [trace for trace in panel(by_round(seen)).figure.data if trace.type == "bar"]
    charged = [record.latency_s for record in seen.records]
    stacked = np.sum([bar.y for bar in bars], axis=0)
    of_a_bar = rounds // 200
    assert stacked[0] == pytest.approx(np.mean(charged[:of_a_bar]))
    assert bars[0].x[0] == of_a_bar


def test_one_round_and_one_client() -> None:
    seen = view(records(rounds=1, clients=1))
    titles = [p.title for panels in run_panels(seen).values() for p in panels]
    assert "Latency of each round, by stage" not in titles
    assert "The client took the same mean time" in render(seen)


def test_real_seconds_are_drawn_by_stage() -> None:
    seen = view(records(rounds=2))
    assert real_time(seen) is None
    timings = [
        {"round": 1, "real_s": 2.0, "stages": {"tune": 1.5, "plan": 0.1}},
        {"round": 2, "real_s": 1.0, "stages": {"tune": 0.75}},
    ]
    figure = panel(real_time(replace(seen, timings=timings))).figure
    drawn = {trace.name: list(trace.y) for trace in figure.data}
    assert drawn == {
        "plan": [0.1, 0.0],
        "tune": [1.5, 0.75],
        "other": [pytest.approx(0.4), pytest.approx(0.25)],
    }
    assert figure.layout.yaxis.title.text == "real time [s]"


def test_a_steady_number_is_a_sentence() -> None:
    seen = view(records(steady_s=2.0))
    assert extra_panels(seen) == ["Steady: 2 s in every round."]


def test_the_budget_without_weights_is_what_the_method_recorded() -> None:
    made = records(rounds=3, measured={"pruning_term": 0.2})
    made[1] = replace(made[1], measured={"pruning_term": 0.3})
    (drawn,) = constraint_panels(view(made, weights=None))
    assert list(panel(drawn).figure.data[0].y) == [0.2, 0.3, 0.2]
    (flat,) = constraint_panels(
        view(records(rounds=3, measured={"pruning_term": 0.2}), weights=None)
    )
    assert flat == (
        "The mean pruning rate, weighted by the clients' examples, was 0.2 in every round; the "
        "budget is 0.3."
    )
    (said,) = constraint_panels(view(records(rounds=3), weights=None))
    assert isinstance(said, str)


def test_an_unknown_start_loss_is_left_out() -> None:
    made = records(rounds=3)
    drawn = loss_panels([Curve("a", [(None, made)])])[0].figure.data[0]
    assert list(drawn.y) == [record.test_loss for record in made]
    seen = view(made)
    lost = replace(seen, summary={**seen.summary, "start_test_loss": None})
    assert run_sentences(lost)[0] == "The test loss is 0.6667 nat after 3 rounds."
    render(lost)


def test_rounds_without_clients_draw() -> None:
    made = lines(rounds=3)
    made[1].update(clients=[], idle_s=4.0, train_loss=None, latency_s=4.0)
    seen: RunView = view(read(made))
    render(seen)
    assert "waiting, no client can send" in {t.name for t in panel(by_round(seen)).figure.data}


def test_groups_and_names() -> None:
    assert groups({0: [1.0, None], 1: [1.0 + 1e-9, None], 2: [2.0, None]}) == [[0, 1], [2]]
    names = ["client 0 (a)", "client 1 (b)", *[f"client {k} (a)" for k in range(2, 12)]]
    assert called([1], names) == "1 b"
    assert called([0, 2, 3], names) == "0, 2–3 (a)"
    assert called([0, 1], names) == "0–1"
    assert called([0, 2, 4, 6], names) == "0, … (4 clients) (a)"
    assert one_value([])
    assert not one_value([1.0, 1.1])
    assert stretches(5, 2) == [slice(0, 3), slice(3, 5)]
    assert stretches(2, 9) == [slice(0, 1), slice(1, 2)]
    x, y = thinned(list(range(2001)), list(range(2001)))
    assert (x[0], x[-1], len(x)) == (0, 2000, 668)
    assert x == y


def test_a_far_arm_leaves_the_others_room() -> None:
    near = [Curve(name, [(3.0, records(rounds=rounds))]) for name, rounds in (("a", 4), ("b", 5))]
    far = Curve("far", [(3.0, records(rounds=80))])
    linear = loss_panels(near)[0].figure
    assert linear.layout.xaxis.type is None
    assert linear.data[0].x[0] == 0.0
    drawn = loss_panels([*near, far])[0].figure
    assert drawn.layout.xaxis.type == "log"
    assert drawn.layout.xaxis.title.text.endswith(", logarithmic")
    # Before training nothing was spent: each curve has one point less.
    assert [len(trace.x) for trace in drawn.data[:2]] == [4, 5]
    assert min(min(trace.x) for trace in drawn.data) > 0.0
    ticks = drawn.layout.xaxis.tickvals
    assert [float(text) for text in drawn.layout.xaxis.ticktext] == pytest.approx(list(ticks))


def test_ticks_of_a_logarithmic_axis() -> None:
    assert log_ticks(0.4, 60.0) == pytest.approx([0.5, 1, 2, 5, 10, 20, 50])
    assert log_ticks(1.0, 2e5) == pytest.approx([1, 10, 100, 1e3, 1e4, 1e5])


def learned(clients: int, rounds: int = 5) -> RunView:
    """A run whose records have the losses and updates of its clients."""
    made = lines(clients=clients, rounds=rounds)
    for record in made:
        record["learning_rate"] = 0.01 / record["round"]
        for entry in record["clients"]:
            entry["train_loss"] = (3.0 + entry["client"]) / record["round"]
            entry["update_norm"] = 0.1 * (1 + entry["client"])
    return view(read(made))


def test_losses_and_updates_of_every_client() -> None:
    few = learned(clients=3)
    loss, update = client_learning(few)
    assert isinstance(loss, Panel)
    assert isinstance(update, Panel)
    assert loss.figure.layout.yaxis.title.text == "train loss of the clients [nat]"
    assert [trace.y[1] for trace in loss.figure.data] == pytest.approx([1.5, 2.0, 2.5])
    assert [trace.y[0] for trace in update.figure.data] == pytest.approx([0.1, 0.2, 0.3])
    many = client_learning(learned(clients=20))[0]
    assert isinstance(many, Panel)
    assert [trace.name for trace in many.figure.data] == [
        "10 to 90 % of the clients",
        "median of the clients",
    ]
    rate = learning_rate(few)
    assert isinstance(rate, Panel)
    assert list(rate.figure.data[0].y) == pytest.approx([0.01, 0.005, 0.01 / 3, 0.0025, 0.002])


def test_learning_that_was_not_recorded_or_does_not_change() -> None:
    old = view(records())
    assert client_learning(old) == []
    assert learning_rate(old) is None
    made = lines()
    for record in made:
        record["learning_rate"] = 0.02
        for entry in record["clients"]:
            entry["update_norm"] = 0.5
    assert client_learning(view(read(made))) == [
        "The norm of the clients' updates was 0.5 for every client in every round."
    ]
    assert learning_rate(view(read(made))) == "The learning rate was 0.02 in every round."


def test_clients_that_did_not_train_leave_gaps() -> None:
    made = lines(clients=2, rounds=3)
    for record in made:
        for entry in record["clients"]:
            if (entry["client"], record["round"]) != (1, 2):
                entry["train_loss"] = 1.0 + entry["client"]
    (panel,) = client_learning(view(read(made)))
    assert isinstance(panel, Panel)
    assert [list(trace.y) for trace in panel.figure.data] == [[1.0] * 3, [2.0, None, 2.0]]
