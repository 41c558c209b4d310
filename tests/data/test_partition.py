"""Shards are disjoint, complete, never empty, and have the skew that was asked for."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airtune.data.partition import Partition, by_column, by_size, dirichlet, iid, partition
from airtune.data.tasks import Example, Slot
from airtune.errors import InputError
from airtune.seeds import generator


def _examples(count: int, labels: int = 5) -> list[Example]:
    return [
        Example(f"p{index}", "c", f"label {index % labels}", columns={"user": f"u{index % 7}"})
        for index in range(count)
    ]


def _check_whole(parts: Partition, count: int, clients: int) -> None:
    assert len(parts) == clients
    shards = [parts[client].tolist() for client in range(clients)]
    assert sorted(row for shard in shards for row in shard) == list(range(count))
    assert all(shard and shard == sorted(shard) for shard in shards)
    assert parts.sizes.tolist() == [len(shard) for shard in shards]


@given(
    count=st.integers(1, 300),
    clients=st.integers(1, 40),
    kind=st.sampled_from(["iid", "dirichlet", "column", "size"]),
    concentration=st.floats(0.05, 100),
    seed=st.integers(0, 2**32),
)
def test_every_kind_is_disjoint_complete_and_repeatable(
    count: int, clients: int, kind: str, concentration: float, seed: int
) -> None:
    examples = _examples(count)
    try:
        parts = partition(examples, clients, kind, concentration, "user", seed)
    except InputError as error:
        # A refusal names the client without a row, or says that one label cannot be shared out.
        assert "client" in str(error) or count == 1  # noqa: PT017
        return
    _check_whole(parts, count, clients)
    again = partition(examples, clients, kind, concentration, "user", seed)
    np.testing.assert_array_equal(parts.rows, again.rows)
    np.testing.assert_array_equal(parts.starts, again.starts)


@given(st.integers(1, 500), st.integers(1, 50), st.integers(0, 1000))
def test_iid_shards_are_even(count: int, clients: int, seed: int) -> None:
    assume(count >= clients)
    sizes = iid(count, clients, seed).sizes
    assert sizes.max() - sizes.min() <= 1


def test_seeds_differ_and_iid_is_shuffled() -> None:
    first, second = iid(1000, 4, 0), iid(1000, 4, 1)
    assert first[0].tolist() != second[0].tolist()
    assert first[0].tolist() != list(range(250))


def _label_entropy(parts: Partition, labels: list[str]) -> float:
    """The mean over clients of the entropy of their labels, in nats."""
    entropies = []
    for client in range(len(parts)):
        counts = np.array(list(Counter(labels[row] for row in parts[client]).values()))
        share = counts / counts.sum()
        entropies.append(-(share * np.log(share)).sum())
    return float(np.mean(entropies))


def test_dirichlet_concentration_sets_the_skew() -> None:
    labels = [str(index % 8) for index in range(16_000)]
    entropy = [_label_entropy(dirichlet(labels, 10, c, 3), labels) for c in (0.2, 1.0, 1000.0)]
    assert entropy[0] < entropy[1] - 0.3 < entropy[2] - 0.5
    assert entropy[2] == pytest.approx(np.log(8), rel=1e-3)


def test_dirichlet_shares_have_the_moments_of_the_distribution() -> None:
    """A client's share of a label has mean 1/K and variance (1/K)(1 - 1/K)/(K c + 1)."""
    clients, concentration = 5, 2.0
    labels = [str(index % 400) for index in range(400 * 200)]
    parts = dirichlet(labels, clients, concentration, 0)
    held = Counter(labels[row] for row in parts[0])
    share = np.array([held[str(label)] for label in range(400)]) / 200
    variance = (1 / clients) * (1 - 1 / clients) / (clients * concentration + 1)
    assert share.mean() == pytest.approx(1 / clients, abs=4 * np.sqrt(variance / 400))
    assert share.var() == pytest.approx(variance, rel=0.25)


def test_by_column_keeps_groups_whole_and_balances_them() -> None:
    values = ["a"] * 10 + ["b"] * 6 + ["c"] * 5 + ["d"] * 1
    parts = by_column(values, 3)
    owners = [{values[row] for row in parts[client]} for client in range(3)]
    assert owners == [{"a"}, {"b"}, {"c", "d"}]


def test_a_slot_can_be_the_column() -> None:
    examples = [
        Example("p", "c", "", (Slot("name", name, (name,)),)) for name in ("x", "y", "x", "y")
    ]
    parts = partition(examples, 2, "column", column="name")
    assert parts[0].tolist() == [0, 2]
    assert parts[1].tolist() == [1, 3]


@pytest.mark.parametrize("law", ["lognormal", "power"])
@pytest.mark.parametrize("concentration", [1.5, 5.0, 50.0])
def test_shard_sizes_vary_as_the_concentration_says(law: str, concentration: float) -> None:
    clients, mean = 4_000, 300
    sizes = by_size(clients * mean, clients, concentration, 1, law).sizes
    assert sizes.sum() == clients * mean
    assert sizes.min() >= 1
    # Both laws have heavy tails, so the sample's deviation settles slowly at small concentration.
    tolerance = 0.5 if concentration < 5 else 0.1
    assert sizes.std() / mean == pytest.approx(1 / np.sqrt(concentration), rel=tolerance)


def test_a_hundred_thousand_clients() -> None:
    clients = 100_000
    labels = np.tile(np.array([str(label) for label in range(8)]), clients)
    for parts in (
        iid(len(labels), clients, 0),
        by_size(len(labels), clients, 1.0, 0),
        dirichlet(labels.tolist(), clients, 50.0, 0),
        by_column([str(index % clients) for index in range(len(labels))], clients),
    ):
        assert len(parts) == clients
        assert parts.sizes.min() >= 1
        assert np.array_equal(np.sort(parts.rows), np.arange(len(labels)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"clients": 0}, "clients.count is 0"),
        ({"clients": 31}, "client 30 would hold no row"),
        ({"clients": 2, "kind": "zipf"}, "iid, dirichlet, column, size"),
        ({"clients": 2, "kind": "dirichlet", "concentration": 0.0}, "a positive number"),
        ({"clients": 2, "kind": "dirichlet", "concentration": float("nan")}, "a positive number"),
        ({"clients": 2, "kind": "size", "concentration": -1.0}, "a positive number"),
        ({"clients": 2, "kind": "column"}, "data.partition.column"),
        ({"clients": 2, "kind": "column", "column": "nowhere"}, "user"),
        ({"clients": 8, "kind": "column", "column": "user"}, "client 7 would hold no row"),
        ({"clients": 25, "kind": "dirichlet", "concentration": 0.01}, "client 1 is"),
        ({"clients": 2, "min_rows": 0}, "data.partition.min_rows is 0"),
        ({"clients": 2, "min_rows": 16}, "from 1 to 15"),
        ({"clients": 4, "kind": "column", "column": "user", "min_rows": 6}, "at most"),
    ],
)
def test_refusals_name_the_client_or_the_key(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        partition(_examples(30), **arguments)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_an_empty_dirichlet_shard_names_the_remedy() -> None:
    with pytest.raises(InputError, match=r"raise data\.partition\.concentration"):
        dirichlet(["a", "b"] * 20, 20, 0.05, 0)


_LABELS = [str(index % 4) for index in range(8000)]


def _drawn_once(seed: int, clients: int) -> list[int]:
    """Sizes of the only draw of earlier versions, written out again."""
    stream = generator(seed, "partition")
    sizes = np.zeros(clients, dtype=int)
    for _ in range(4):
        share = stream.dirichlet(np.full(clients, 0.1))
        ends = [0, *np.rint(np.cumsum(share)[:-1] * 2000).astype(int), 2000]
        sizes += np.diff(ends)
        stream.permutation(2000)
    return sizes.tolist()


def test_a_draw_that_leaves_nobody_short_stays_and_others_are_repeated() -> None:
    drawn = [dirichlet(_LABELS, 20, 0.1, seed) for seed in range(40)]
    assert 8 < sum(parts.redraws > 0 for parts in drawn) < 32
    for seed, parts in enumerate(drawn):
        assert parts.sizes.min() >= 1
        first = _drawn_once(seed, 20)
        assert (min(first) == 0) == (parts.redraws > 0)
        if not parts.redraws:
            assert parts.sizes.tolist() == first
        again = dirichlet(_LABELS, 20, 0.1, seed)
        assert again.redraws == parts.redraws
        assert again.rows.tolist() == parts.rows.tolist()


def test_min_rows_holds_for_every_kind() -> None:
    examples = [Example("p", "c", label) for label in _LABELS]
    for kind in ("iid", "dirichlet", "size"):
        parts = partition(examples, 10, kind, 0.5, seed=3, min_rows=6)
        assert parts.sizes.min() >= 6
        assert sorted(parts.rows.tolist()) == list(range(8000))


def test_a_hopeless_partition_is_given_up_and_says_after_how_many_draws() -> None:
    with pytest.raises(InputError, match=r"after 1000 draws.*raise data\.partition\.concentration"):
        dirichlet(["a", "b"] * 20, 20, 0.05, 0)


@pytest.mark.parametrize("kind", ["dirichlet", "column"])
def test_missing_values_are_no_value_of_their_own(kind: str) -> None:
    rows = [{"user": str(n % 3)} if n != 4 else {} for n in range(30)]
    examples = [Example("p", "c", "", columns=row) for row in rows]
    with pytest.raises(InputError, match=r"1 of 30 have none"):
        partition(examples, 2, kind, column="user")


def test_missing_labels_are_no_label_of_their_own() -> None:
    examples = [Example("p", "c", "a" if n else "") for n in range(30)]
    with pytest.raises(InputError, match=r"1 of 30 training rows have no `label`"):
        partition(examples, 2, "dirichlet")


def test_dirichlet_needs_labels() -> None:
    with pytest.raises(InputError, match=r"data\.partition\.column"):
        dirichlet(["same"] * 20, 2, 1.0, 0)


def test_a_client_that_does_not_exist() -> None:
    with pytest.raises(IndexError):
        iid(10, 2, 0)[2]
