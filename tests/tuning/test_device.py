"""Training on a pretended GPU: the same numbers, and what leaves it is on the processor."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import HostDropout
from airtune.tuning.base_model import resolve_device
from airtune.tuning.evaluate import evaluate
from airtune.tuning.local import TrainingSettings, train_locally
from airtune.tuning.orthogonality import OrthogonalityPenalty
from airtune.tuning.pruning.importance import ActivationImportance, WeightImportance
from airtune.tuning.pruning.tuner import PrunedTuner, Slicer
from airtune.tuning.split.client import SplitClient
from airtune.tuning.split.model import SplitModel
from airtune.tuning.split.round import SplitSettings, split_round
from airtune.tuning.stack import train_stacked
from airtune.tuning.tuner import TuningContext, TuningJob
from airtune.update.cut import CutCodec
from airtune.workload.architecture import Architecture
from tests.pretend_gpu import OnGpu, PretendGpu, on_gpu
from tests.tuning.test_batched import adapted, batch_of, start_of

KEEPING = TrainingSettings(learning_rate=2e-3, keep_optimizer=True)
FAMILIES = ("llama", "gpt2")


def on_both(family: str, run: Any, **settings: Any) -> tuple[Any, Any]:
    """What `run` answers for a model here and on the pretended GPU."""
    model = adapted(family, **settings)
    expected = run(copy.deepcopy(model))
    with PretendGpu():
        found = run(on_gpu(model))
    return found, expected


def assert_equal_here(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert not isinstance(found[name], OnGpu), name
        assert torch.equal(found[name], value), name


def test_the_pretended_gpu_refuses_tensors_of_the_processor() -> None:
    with PretendGpu(), pytest.raises(RuntimeError, match="not on cuda"):
        torch.ones(3, device="cuda") + torch.ones(3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_one_client(family: str, dropout: float) -> None:
    def run(model: Any) -> Any:
        first = train_locally(
            model,
            start_of(model, 0),
            [batch_of(0, 0)],
            KEEPING,
            (0, 0, 0),
            penalty=OrthogonalityPenalty(),
        )
        return train_locally(
            model, first.state, [batch_of(0, 1)], KEEPING, (0, 1, 0), first.carried
        )

    found, expected = on_both(family, run, dropout=dropout)
    assert found.losses == expected.losses
    assert_equal_here(found.state, expected.state)
    assert_equal_here(found.carried, expected.carried)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack(family: str) -> None:
    def run(model: Any) -> Any:
        clients, results = range(3), []
        starts = [start_of(model, c) for c in clients]
        carried: list[Mapping[str, Tensor]] = [{}] * 3
        for step in range(2):
            batches = [[batch_of(c, step)] for c in clients]
            results = train_stacked(
                model, starts, batches, KEEPING, carried, OrthogonalityPenalty()
            )
            starts, carried = [r.state for r in results], [r.carried for r in results]
        return results

    for found, expected in zip(*on_both(family, run), strict=True):
        assert found.losses == expected.losses
        assert_equal_here(found.state, expected.state)
        assert_equal_here(found.carried, expected.carried)


@pytest.mark.parametrize("labels_at", ["server", "client"])
def test_a_split_round(labels_at: str) -> None:
    def run(model: Any) -> Any:
        clients = [SplitClient(c, 1, [batch_of(c, 0, tokens=8 + c)]) for c in range(2)]
        return split_round(
            SplitModel(model),
            start_of(model, 0),
            clients,
            KEEPING,
            CutCodec(vocabulary=96),
            SplitSettings(labels_at=labels_at),
            seed=0,
            round_index=0,
        )

    found, expected = on_both("llama", run)
    assert_equal_here(found.server, expected.server)
    assert_equal_here(found.server_carried, expected.server_carried)
    for one, other in zip(found.reports, expected.reports, strict=True):
        assert (one.losses, one.cut) == (other.losses, other.cut)
        assert_equal_here(one.state, other.state)
        assert_equal_here(one.carried, other.carried)


def test_pruned_clients() -> None:
    def run(model: Any) -> Any:
        tuner = PrunedTuner(Slicer(model, WeightImportance()))
        jobs = [
            TuningJob(
                start_of(model, 0),
                ClientPlan(client, 1.0, 1.0, 3, pruning_rate=0.5),
                TuningContext(model, [batch_of(client, 0)], KEEPING, 0, 0, {}),
            )
            for client in range(2)
        ]
        return [tuner.tune(jobs[0].start, jobs[0].plan, jobs[0].context), *tuner.tune_stack(jobs)]

    for found, expected in zip(*on_both("llama", run), strict=True):
        assert found.losses == expected.losses
        assert_equal_here(found.state, expected.state)
        assert_equal_here(found.carried, expected.carried)


def test_evaluation() -> None:
    found, expected = on_both("llama", lambda model: evaluate(model, [batch_of(0, 0)]))
    assert found == expected


@pytest.mark.parametrize(
    "importance", [WeightImportance(), ActivationImportance((batch_of(0, 0),))]
)
def test_importance_ranks_alike(importance: Any) -> None:
    def run(model: Any) -> Any:
        architecture = Architecture.from_config(model.get_base_model().config.to_dict())
        return importance.scores(model, architecture, start_of(model, 0))

    for found, expected in zip(*on_both("llama", run), strict=True):
        assert_equal_here(vars(found), vars(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_what_torch_drops(dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.manual_seed(1)
    expected = torch.nn.Dropout(0.3)(x)
    torch.manual_seed(1)
    assert torch.equal(HostDropout(0.3)(x), expected)
    assert HostDropout(0.3).eval()(x) is x


def test_device_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    present = True
    monkeypatch.setattr("torch.cuda.is_available", lambda: present)
    assert [resolve_device(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    present = False
    assert [resolve_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(InputError, match="device is cuda"):
        resolve_device("cuda")
