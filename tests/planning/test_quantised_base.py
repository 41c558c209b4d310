"""Problems of a cell whose clients hold a quantised base: memory alone is another."""

from typing import Any

import pytest

import airtune
from airtune.errors import InputError
from airtune.methods.plan import from_cell
from tests.planning.cell_cases import FEDSLLM, JCPBA, SFLLLM, TSFA

BOARD = {"count": 2, "devices": "jetson-orin-nano"}
LARGE = {"model": "llama-3.2-3b", "clients": BOARD, "tokens": 128}


def planned(case: dict[str, Any], **keys: Any) -> Any:
    return airtune.plan({**case, **LARGE, **keys})


@pytest.mark.parametrize("case", [TSFA, FEDSLLM], ids=["tsfa", "fedsllm"])
def test_a_model_that_fits_quantised_alone(case: dict[str, Any]) -> None:
    """3.2 G parameters: 6.4 GB in bf16, of 5.6 GB that a Jetson Orin Nano leaves."""
    with pytest.raises(InputError, match="memory of client 0"):
        planned(case, dtype="bf16")
    assert planned(case, dtype="nf4").answer
    with pytest.raises(InputError, match="memory of client 0"):
        planned(
            case, dtype="nf4", compute_dtype="fp32", training={"batch_size": 8, "local_steps": 3}
        )


def test_time_does_not_depend_on_the_dtype() -> None:
    plain, packed = (from_cell({**TSFA, "dtype": dtype}) for dtype in ("fp32", "nf4"))
    assert plain.numbers == packed.numbers
    told = " ".join(packed.origin)
    assert "Training rates are charged for nf4" in told
    assert "in fp32 (jetson-orin-nano, orange-pi-5)" in told
    assert "Training rates" not in " ".join(plain.origin)


def test_later_split_points_fit() -> None:
    def last(dtype: str) -> int:
        problem = from_cell({**SFLLLM, **LARGE, "dtype": dtype})
        return int(max(row["split_point"] for row in problem.numbers["candidates"]))

    assert last("fp32") < last("bf16") < last("int8") <= last("nf4")


def test_pruning_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"dtype is nf4.*where the model is pruned"):
        planned(JCPBA, dtype="nf4")
    with pytest.raises(InputError, match="compute_dtype is bf16, but it must be left out"):
        planned(TSFA, compute_dtype="bf16")
