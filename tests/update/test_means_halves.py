"""Merging client halves with the main server's half."""

import pytest
import torch
from torch import Tensor

from airtune.update.means import FactorMean, merge_halves
from airtune.update.server import Update


def tensors(seed: int, *names: str) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 3, generator=source) for name in names}


START = tensors(0, "a", "b", "c")


def test_one_split_point_is_fedavg_beside_the_server() -> None:
    updates = [Update(0, 1.0, tensors(1, "a")), Update(1, 3.0, tensors(2, "a"))]
    server = tensors(3, "b", "c")
    merged = merge_halves(START, updates, server)
    mean = FactorMean().aggregate({"a": START["a"]}, updates)
    torch.testing.assert_close(merged["a"], mean["a"])
    assert torch.equal(merged["b"], server["b"])
    assert torch.equal(merged["c"], server["c"])
    assert list(merged) == list(START)


def test_the_server_stands_for_those_that_cut_earlier() -> None:
    updates = [Update(0, 1.0, tensors(1, "a")), Update(1, 3.0, tensors(2, "a", "b"))]
    server = tensors(3, "b", "c")
    merged = merge_halves(START, updates, server)
    own = START["b"] + updates[1].change["b"]
    torch.testing.assert_close(merged["b"], 0.75 * own + 0.25 * server["b"])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_only_relative_weights_count(scale: float) -> None:
    server = tensors(3, "b", "c")

    def merged(scale: float) -> dict[str, Tensor]:
        changes = [tensors(1, "a"), tensors(2, "a", "b"), tensors(4, "a")]
        updates = [Update(n, scale * (n + 1), change) for n, change in enumerate(changes)]
        return merge_halves(START, updates, server)

    for name, value in merged(1.0).items():
        torch.testing.assert_close(merged(scale)[name], value)


def test_nobody_arrived() -> None:
    server = tensors(3, "b", "c")
    merged = merge_halves(START, [], server)
    assert torch.equal(merged["a"], START["a"])
    assert torch.equal(merged["b"], server["b"])


def test_weights_that_round_badly_do_not_let_the_server_in() -> None:
    server = {"a": torch.full((2, 3), 1e30)}
    updates = [Update(n, 0.1, {"a": torch.zeros(2, 3)}) for n in range(10)]
    assert torch.equal(merge_halves({"a": START["a"]}, updates, server)["a"], START["a"])
