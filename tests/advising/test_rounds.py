"""Advised rounds against a run's records, and against worlds that are loaded whole."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from airtune import Experiment
from airtune.advising import Advice, advise
from airtune.advising.answer import MethodAdvice
from airtune.advising.draws import DrawnRound, draw_rounds, uses_reports
from airtune.advising.opening import Opener
from airtune.config.experiment import ExperimentConfig
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.records.record import RoundRecord
from airtune.federated.round import run_round, start_or_wait

SMALL = (
    "clients.count=3",
    "training.local_steps=2",
    "training.batch_size=2",
    "data.train_limit=60",
    "data.test_limit=4",
    "data.score_rows=1",
    "engine=sequential",
    "threads=1",
    # Drawn in microseconds; Sionna's rays have a test of their own.
    "cell.path_loss=log_distance",
    "cell.log_distance_intercept_db=120",
)
FEW = 3
OPENER = Opener()

CASES = {
    "plain": ("method=fedlora",),
    "pruned": ("method=jcpba",),
    "split": ("method=sflllm",),
    "int8, ranks by device": ("method=hetlora", "planner=bandwidth", "codec=int8"),
    "charged as another": ("charge_as=gpt2", "method=jcpba", "cell.bandwidth_hz=100e6"),
    "cohort and silent clients": ("clients.count=5", "cohort.size=3", "cohort.dropout=0.5"),
    "split, silent and late": ("method=sflllm", "cohort.dropout=0.4", "deadline_s=9"),
}
LONGER = {
    "random shares": ("method=fedlora", "fedlora.bandwidth=random"),
    "ranks by device": ("method=hetlora",),
    "frozen A": ("method=ffa_lora",),
    "corrected mean": ("method=lora_fair", "lora_fair.uplink_dtype=bf16"),
    "split, int8, labels at clients": (
        "method=sflllm",
        "sflllm.labels_at=client",
        "sflllm.activation_dtype=int8",
        "sflllm.split_points=own",
    ),
    "all data in one place": ("method=centralised",),
    "int8": ("codec=int8",),
    "late clients": ("deadline_s=1.2", "fedlora.bandwidth=equal"),
    "full tuning": ("adapter.kind=full", "training.learning_rate=0.003"),
    "table of rates, heads": ("cell.rate_model=cqi", "cell.overhead_share=0.1"),
    "round trips": ("method=sflllm", "cell.round_trip_s=0.05"),
    "micro-batches": ("training.gradient_accumulation=2", "training.gradient_checkpointing=true"),
    "one rank": ("adapter.rank=1", "adapter.target_modules=[q_proj]"),
    "ranks by matrix": ("adapter.rank_pattern={mlp.down_proj: 4}",),
    "other engine": ("engine=batched",),
}
ALL = {**CASES, **LONGER}
"""Methods times what changes a round's charge: each as `--set` values."""


def _experiment(*settings: str) -> Experiment:
    return Experiment.load(None, [*SMALL, f"rounds={FEW}", *settings])


def _own(advice: Advice) -> MethodAdvice:
    entry = advice.methods[0]
    assert entry.feasible, entry.reason
    return entry


def _ask(experiment: Experiment) -> Advice:
    return advise(experiment, methods=[experiment.config.method], draws=FEW)


def _drawn(config: ExperimentConfig) -> list[DrawnRound]:
    return draw_rounds(OPENER.compose(OPENER.load(config)).settled(), FEW)


def _trained(config: ExperimentConfig) -> list[RoundRecord]:
    """The records of rounds that are really trained."""
    world = build_world(config)
    state, records = world.unmeasured_start(), []
    for _ in range(FEW):
        outcome = run_round(world.context, state)
        state = outcome.state
        records.append(outcome.record)
    return records


def _same(drawn: Sequence[DrawnRound], records: Sequence[RoundRecord]) -> None:
    for one, record in zip(drawn, records, strict=True):
        found = (one.latency_s, one.uplink_bytes, one.downlink_bytes, one.energy_j)
        bytes_up, bytes_down = record.uplink_bits / 8, record.downlink_bits / 8
        charged = (record.latency_s, bytes_up, bytes_down, record.energy_j)
        np.testing.assert_allclose(found, charged, rtol=1e-12)
        assert one.straggler == record.straggler
        np.testing.assert_allclose(sum(one.stages_s.values()), record.latency_s, rtol=1e-9)


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in LONGER)]
)
def test_drawn_rounds_are_those_that_are_charged(case: str) -> None:
    config = _experiment(*ALL[case]).config
    records = _trained(config)
    _same(_drawn(config), records)
    assert len({record.latency_s for record in records}) > 1 or "late" in case


def test_the_numbers_are_those_of_a_run_folder(tmp_path: Path) -> None:
    experiment = _experiment()
    records = experiment.run(tmp_path / "run").records
    entry = _own(_ask(experiment))
    assert entry.job is not None
    charged = [record.latency_s for record in records]
    np.testing.assert_allclose(entry.round_latencies_s, charged, rtol=1e-12)
    for key, values in {
        "latency_s": charged,
        "uplink_bytes": [record.uplink_bits / 8 for record in records],
        "downlink_bytes": [record.downlink_bits / 8 for record in records],
        "energy_j": [record.energy_j for record in records],
    }.items():
        spread = entry.round[key]
        expected = [np.mean(values), *np.percentile(values, (10, 90))]
        np.testing.assert_allclose([spread.mean, spread.p10, spread.p90], expected, rtol=1e-12)
        np.testing.assert_allclose(entry.job.totals[key].mean, np.sum(values), rtol=1e-12)


def test_the_first_round_is_exact_where_a_method_plans_with_reports() -> None:
    """Later rounds of a run know what clients reported, which is said."""
    experiment = _experiment("method=soft_tsfa")
    _same(_drawn(experiment.config)[:1], _trained(experiment.config)[:1])
    opened = OPENER.compose(OPENER.load(experiment.config))
    assert uses_reports(opened.context.method.planner)


def test_rays_and_an_estimate_with_error_are_those_of_the_run() -> None:
    base = [item for item in SMALL if not item.startswith("cell.")]
    settings = ("cell.csi_error_db=3", "cell.csi_delay_rounds=1", f"rounds={FEW}")
    config = read_config(None, [*base, *settings])
    records = _trained(config)
    _same(_drawn(config), records)
    assert any(record.latency_s != record.planned_latency_s for record in records)


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "throughput_bps\n" + "\n".join(f"{1e6 * (3 + k % 4)}" for k in range(20)) + "\n"
    )
    settings = (
        f"cell.trace={trace}",
        "cell.trace_column=throughput_bps",
        "cell.trace_bandwidth_hz=10e6",
    )
    base = [item for item in SMALL if not item.startswith("cell.")]
    config = read_config(None, [*base, f"rounds={FEW}", *settings])
    _same(_drawn(config), _trained(config))


def _latencies(world: World, rounds: int) -> list[float]:
    """Planned latencies of a world that is loaded whole, as a dry run plans them."""
    state = world.unmeasured_start()
    starts = [
        start_or_wait(world.context, replace(state, rounds_done=index)) for index in range(rounds)
    ]
    return [start.plan.predicted_latency_s for start in starts]


@pytest.mark.parametrize(
    "method",
    ["fedlora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jcpba", "sflllm"))],
)
def test_every_suggestion_does_what_it_says(method: str) -> None:
    """Applied to the experiment, a dry run's code gives the latency that was advised."""
    common = [*SMALL, f"rounds={FEW}", f"method={method}"]
    experiment = Experiment.load(None, common)
    advice = _ask(experiment)
    base = _own(advice)
    assert len(advice.suggestions) >= 4
    assert [one.total_change_s for one in advice.suggestions] == sorted(
        one.total_change_s or 0.0 for one in advice.suggestions
    )
    for one in advice.suggestions:
        world = build_world(read_config(None, [*common, *one.settings]))
        found = _latencies(world, FEW)
        np.testing.assert_allclose(np.mean(found), one.latency_s.mean, rtol=1e-9)
        assert one.latency_change is not None
        change = np.mean(found) / base.latency_s - 1
        assert abs(change - one.latency_change) < 1e-9, one.what
        assert one.planned_first_round_s == pytest.approx(found[0], rel=1e-12)


def test_the_first_round_is_that_of_a_dry_run() -> None:
    experiment = _experiment()
    entry = _own(_ask(experiment))
    assert entry.planned_first_round_s == experiment.preview()["latency_s"]


def test_a_change_without_effect_is_left_out_with_the_reason() -> None:
    advice = _ask(_experiment())
    reasons = {one.what: one.reason for one in advice.left_out}
    power = next(reason for what, reason in reasons.items() if "transmit power" in what)
    assert "every device's profile" in power
    assert all("transmit power" not in one.what for one in advice.suggestions)


def test_a_change_that_a_run_refuses_is_left_out_with_its_sentence() -> None:
    advice = _ask(_experiment("codec=top-k"))
    reasons = {one.what: one.reason for one in advice.left_out}
    assert "codec" in reasons["updates as fp16 on the air"]


def test_weights_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    assert _own(_ask(_experiment())).feasible


def test_shapes_without_weights_are_those_of_the_loaded_model() -> None:
    for case in ("plain", "one rank", "ranks by matrix", "split"):
        settings = [*SMALL, *ALL[case]]
        config = read_config(None, settings)
        opened = OPENER.compose(OPENER.load(config))
        assert opened.context.shapes == build_world(config).context.shapes
