"""Groups of ranks against plain loops."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.federated.records.record import decisions
from airtune.methods.soft_tsfa.layout import RankLayout, newest
from airtune.round_plan import ClientPlan
from airtune.update.rank_sparse import RankSparseCodec

RANKS, NUMBERS = (3, 3), (10, 20)
SHAPES = {
    "x.lora_A.weight": (3, 6),
    "x.lora_B.weight": (4, 3),
    "y.lora_A.weight": (3, 12),
    "y.lora_B.weight": (8, 3),
}
REPORT = [0.1, 0.3, 0.2, 0.0, 0.05, 0.35]
PLAN = ClientPlan(0, 0.0, 0.1, 3)


@dataclass(frozen=True)
class Costs:
    """Payloads as the codec counts them."""

    dtype: str = "fp32"

    def payload_bits(self, plan: ClientPlan) -> int:
        return RankSparseCodec("norm", self.dtype, report=True).payload_bits(SHAPES, plan)


def test_energies_by_layer_and_global() -> None:
    per_layer = RankLayout(RANKS, NUMBERS)
    assert per_layer.energies(REPORT) == pytest.approx([0.65, 0.25, 0.1])
    everywhere = RankLayout(RANKS, NUMBERS, "global")
    assert everywhere.energies(REPORT) == pytest.approx([0.3, 0.2, 0.1, 0.35, 0.05, 0.0])
    assert per_layer.energies([0.0] * 6).tolist() == [0.0] * 3
    with pytest.raises(InputError, match=r"codec is reporting 5 numbers.*reporting 6"):
        per_layer.energies(REPORT[1:])
    assert per_layer.assumed().sum() == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("selection", ["per-layer", "global"])
def test_the_straight_line_is_near_the_codec(dtype: str, selection: str) -> None:
    layout, costs = RankLayout(RANKS, NUMBERS, selection), Costs(dtype)
    each, fixed = layout.payload_bits(costs, PLAN)  # type: ignore[arg-type]
    for code in range(1, 2**layout.groups):
        kept = np.array([bool(code >> i & 1) for i in range(layout.groups)])
        exact = costs.payload_bits(layout.with_kept(PLAN, kept))
        assert fixed + each[kept].sum() == pytest.approx(exact, abs=800)


def test_counts_of_a_global_choice() -> None:
    layout = RankLayout(RANKS, NUMBERS, "global")
    kept = np.array([True, True, False, True, False, False])
    plan = layout.with_kept(PLAN, kept)
    assert plan.kept_ranks == (2, 1)
    assert plan.sparsity == pytest.approx(0.5)
    assert decisions(plan)["kept_ranks"] == [2, 1]


def test_newcomers_get_the_cohorts_mean() -> None:
    known: dict[str, Any] = {"0": [0.8, 0.2], "2": [0.6, 0.4], "9": [1.0, 0.0]}
    assumed = np.array([0.5, 0.5])
    table = newest(known, np.array([0, 1, 2]), assumed)
    assert table[1] == pytest.approx([0.7, 0.3])
    assert table[2] == pytest.approx([0.6, 0.4])
    strangers = newest(known, np.array([4, 5]), assumed)
    assert strangers == pytest.approx(np.array([[0.8, 0.2]] * 2))
    assert newest({}, np.array([4]), assumed) == pytest.approx(assumed[None])


def test_unknown_selection() -> None:
    with pytest.raises(InputError, match=r"soft_tsfa\.selection is best"):
        RankLayout(RANKS, NUMBERS, "best")
