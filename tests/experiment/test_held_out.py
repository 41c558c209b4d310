"""Held-out rows of each client: dealt as the training rows lie, and each read with its half."""

import numpy as np
import pytest
import torch

from airtune.experiment.held_out import dealt, mean_adapter


def test_rows_follow_the_training_labels() -> None:
    owner = np.array([0] * 30 + [1] * 10 + [1] * 20 + [2] * 20)
    train = ["a"] * 40 + ["b"] * 40
    parts = dealt(["a"] * 8 + ["b"] * 8, train, owner, 3, seed=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(16))
    counted = [[int((part < 8).sum()), int((part >= 8).sum())] for part in parts]
    assert counted == [[6, 0], [2, 4], [0, 4]]
    again = dealt(["a"] * 8 + ["b"] * 8, train, owner, 3, seed=1)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))
    other_seed = dealt(["a"] * 8 + ["b"] * 8, train, owner, 3, seed=2)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, other_seed, strict=True))


def test_without_labels_rows_follow_the_sizes() -> None:
    owner = np.array([0] * 30 + [1] * 10)
    sizes = [len(part) for part in dealt([""] * 8, [""] * 40, owner, 2, seed=0)]
    assert sizes == [6, 2]
    # A label that nobody trains on, too.
    sizes = [len(part) for part in dealt(["new"] * 4, ["old"] * 40, owner, 2, seed=0)]
    assert sizes == [3, 1]


def test_fewer_rows_than_clients_are_all_dealt() -> None:
    parts = dealt(["x"] * 3, ["x"] * 10, np.arange(10), 10, seed=0)
    assert sorted(len(part) for part in parts) == [0] * 7 + [1] * 3


def test_the_mean_adapter_weighs_every_client() -> None:
    adapter = {"a": torch.tensor([1.0]), "b": torch.tensor([5.0])}
    carried = {
        -1: {"a/exp_avg": torch.tensor([9.0])},
        0: {"own/a": torch.tensor([3.0])},
        2: {"own/a": torch.tensor([7.0]), "got/a": torch.tensor([100.0])},
    }
    merged = mean_adapter(adapter, carried, np.array([1.0, 2.0, 1.0]))
    assert merged["a"].item() == pytest.approx(0.25 * 3 + 0.5 * 1 + 0.25 * 7)
    assert merged["b"] is adapter["b"]
