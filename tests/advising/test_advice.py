"""What `advise` answers besides rounds: methods that do not fit, jobs, deadlines, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest

from airtune import Experiment
from airtune.advising import advise
from airtune.advising.answer import Spread
from airtune.advising.draws import DrawnRound
from airtune.advising.summary import job_of
from airtune.errors import AirtuneError, InputError
from tests.advising.test_rounds import SMALL


def _experiment(*settings: str) -> Experiment:
    return Experiment.load(None, [*SMALL, "rounds=3", *settings])


def test_by_default_all_federated_methods_are_advised_the_own_first() -> None:
    advice = advise(_experiment("method=hetlora"), draws=3)
    names = [entry.name for entry in advice.methods]
    assert names[0] == "hetlora"
    assert {"fedlora", "jcpba", "soft_tsfa", "ffa_lora", "lora_fair", "sflllm"} < set(names)
    assert "centralised" not in names
    assert all(entry.feasible for entry in advice.methods)
    best = advice.best
    assert best is not None
    assert best.latency_s == min(e.latency_s for e in advice.methods)


@pytest.mark.parametrize(("own", "offered"), [("fedlora", "soft_tsfa"), ("ferret", "fedkseed")])
def test_few_coefficients_are_not_offered_in_place_of_updates(own: str, offered: str) -> None:
    names = [own, *sorted({"soft_tsfa", "ferret", "fedkseed"} - {own})]
    advice = advise(_experiment(f"method={own}", "cell.bandwidth_hz=3e5"), draws=3, methods=names)
    assert advice.best is not None
    assert advice.best.name == "fedkseed"
    found = [one.what for one in advice.suggestions if " in place of " in one.what]
    assert [what for what in found if own in what] == [f"{offered} in place of {own}"]


def test_no_method_fits_is_an_answer() -> None:
    experiment = _experiment("charge_as=llama-3.1-70b", "clients.devices=pixel-9")
    advice = advise(experiment, draws=2, methods=["fedlora", "jcpba"])
    assert not advice.possible
    assert advice.best is None
    for entry in advice.methods:
        assert "memory of client 0" in entry.reason
        assert entry.round == {}
    assert not advice.suggestions
    json.dumps(advice.to_json(), allow_nan=False)
    assert list(advice.to_frame()["feasible"]) == [False, False]


def test_what_lets_a_method_fit_is_suggested() -> None:
    """llama-3.2-1b in bf16 is too large for this board, in int8 it is not."""
    experiment = _experiment("charge_as=llama-3.2-1b", "clients.devices=jetson-nano")
    advice = advise(experiment, draws=2, methods=["fedlora"])
    assert not advice.methods[0].feasible
    fits = {one.what: one for one in advice.suggestions}
    assert "the base in bf16" not in fits
    one = fits["the base in int8"]
    assert one.latency_change is None
    assert one.settings == ["dtype=int8"]
    assert one.memory is not None
    assert one.memory.needed_bytes <= one.memory.usable_bytes


def test_a_deadline_counts_rounds() -> None:
    experiment = _experiment("method=fedlora")
    free = advise(experiment, draws=3, methods=["fedlora"]).methods[0]
    assert free.job is not None
    assert free.job.in_time is None
    deadline_s = 2.5 * free.latency_s
    bound = advise(experiment, draws=3, methods=["fedlora"], deadline_s=deadline_s)
    job = bound.methods[0].job
    assert job is not None
    assert (job.in_time, job.rounds_that_fit, bound.possible) == (False, 2, False)
    assert advise(
        experiment, draws=3, methods=["fedlora"], deadline_s=deadline_s, rounds=2
    ).possible


def test_rounds_are_asked_for_or_from_a_table() -> None:
    table = "sflllm.rounds_table={4: 60, 8: 20.5}"
    experiment = _experiment("method=sflllm", table, "adapter.rank=8")
    job = advise(experiment, draws=2, methods=["sflllm"]).methods[0].job
    assert job is not None
    assert job.rounds == 21
    assert "E(8)" in job.rounds_source
    assert "rounds_table" in job.rounds_source
    job = advise(experiment, draws=2, methods=["sflllm"], rounds=7).methods[0].job
    assert job is not None
    assert (job.rounds, job.rounds_source) == (7, "asked for")


def _drawn(latency_s: float) -> DrawnRound:
    return DrawnRound(latency_s, 8.0, 1.0, 2.0, 0, "upload", {"upload": latency_s}, {}, None, 1.0)


@pytest.mark.parametrize("rounds", [1, 7, 10, 48, 1003])
def test_a_job_is_drawn_in_stretches(rounds: int) -> None:
    """Of constant rounds it is a product; of alternating ones it varies less than a round."""
    same = job_of([_drawn(3.0)] * 50, rounds, "", None, 0).totals["latency_s"]
    np.testing.assert_allclose([same.mean, same.p10, same.p90], 3.0 * rounds, rtol=1e-12)
    series = np.random.default_rng(5).exponential(4.0, 50)
    job = job_of([_drawn(value) for value in series], rounds, "", None, 0)
    total = job.totals["latency_s"]
    assert total.mean == pytest.approx(rounds * series.mean())
    assert total.p10 < total.p90
    # The spread of a sum of independent values grows with the root of their number.
    width = (total.p90 - total.p10) / np.sqrt(rounds)
    assert 0.4 * 2.56 * series.std() < width < 1.6 * 2.56 * series.std()
    assert job.totals["energy_j"] == Spread(2.0 * rounds, 2.0 * rounds, 2.0 * rounds)
    assert job == job_of([_drawn(value) for value in series], rounds, "", None, 0)


def test_methods_take_options_and_refuse_what_they_do_not_have() -> None:
    experiment = _experiment()
    names = ["fedlora", "fedlora:bandwidth=equal", "ffa_lora:adapter.rank=2+uplink_dtype=fp16"]
    advice = advise(experiment, draws=2, methods=names)
    latencies = [entry.latency_s for entry in advice.methods]
    assert [entry.name for entry in advice.methods] == names
    assert latencies[1] > latencies[0] > latencies[2]
    for methods, words in (
        (["fedlor"], "fedlora"),
        (["jcpba:bandwidth=equal"], "bandwidth"),
        (["jcpba:pruning_budget=0.1+calibration=x"], "importance"),
        (["fedlora", "fedlora"], "repetition"),
        ([], "--methods"),
    ):
        with pytest.raises(AirtuneError, match=words):
            advise(experiment, draws=1, methods=methods)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("data.train=nowhere.jsonl",), "nowhere.jsonl"),
        (("model=llama-3.1-8b",), "bundled config"),
        (("codec=half",), "codec"),
        (("adapter.rank=4000",), "adapter.rank"),
        (("charge_as=nothing-9b",), "charge_as"),
        (("data.max_tokens=100000",), "max_tokens"),
        (("cohort.size=9",), "cohort.size"),
    ],
)
def test_what_a_dry_run_refuses_is_refused_with_the_same_sentence(
    settings: tuple[str, ...], words: str
) -> None:
    experiment = _experiment(*settings)
    with pytest.raises(AirtuneError, match=words) as dry:
        experiment.preview()
    with pytest.raises(AirtuneError) as advised:
        advise(experiment, draws=1)
    assert str(advised.value) == str(dry.value)


@pytest.mark.parametrize(
    "options", [{"deadline_s": 0.0}, {"deadline_s": np.nan}, {"rounds": 0}, {"draws": 0}]
)
def test_arguments_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        advise(_experiment(), **options)  # type: ignore[arg-type]


def test_a_recording_that_ends_gives_fewer_draws(tmp_path: Path) -> None:
    from airtune.wireless.channel import open_channel

    config = _experiment().config
    recording = tmp_path / "channel.csv"
    open_channel(config.cell, 3, 0).export(recording, range(5))
    experiment = _experiment(f"cell.replay={recording}")
    advice = advise(experiment, methods=["fedlora"])
    assert advice.draws == 5
    assert len(advice.methods[0].round_latencies_s) == 5
    fresh = advise(_experiment(), methods=["fedlora"], draws=5)
    np.testing.assert_allclose(
        advice.methods[0].round_latencies_s, fresh.methods[0].round_latencies_s, rtol=1e-9
    )
