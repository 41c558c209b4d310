"""Batches against a slow plain twin; the order of rows is a function of (seed, round, client)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.data.batches import local_batches, make_batch, rows_alike
from airtune.data.encoding import Encoded


def _encoded(shapes: list[tuple[int, int]]) -> Encoded:
    """Rows of (prompt, label) token counts; the ids count up from 1."""
    lengths = [sum(shape) for shape in shapes]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Encoded(
        np.arange(1, starts[-1] + 1, dtype=np.int32),
        np.concatenate([np.arange(sum(shape)) >= shape[0] for shape in shapes]),
        starts,
        np.array([prompt for prompt, _ in shapes], dtype=np.int32),
        np.arange(len(shapes), dtype=np.int64),
        *(0, 0, 0, 64),
    )


SHAPES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=9)


@given(SHAPES, st.data(), st.integers(0, 14))
def test_a_batch_agrees_with_its_slow_twin(
    shapes: list[tuple[int, int]], data: st.DataObject, width: int
) -> None:
    encoded = _encoded(shapes)
    rows = data.draw(st.lists(st.integers(0, len(shapes) - 1), min_size=1, max_size=5))
    batch = make_batch(encoded, rows, pad_token=-5, width=width)
    longest = max(width, *(sum(shapes[row]) for row in rows))
    assert batch.token_ids.shape == (len(rows), longest)
    for line, row in enumerate(rows):
        prompt, labels = shapes[row]
        ids = encoded.row(row).tolist()
        padding = longest - len(ids)
        assert batch.token_ids[line].tolist() == ids + [-5] * padding
        assert batch.attention_mask[line].tolist() == [True] * len(ids) + [False] * padding
        expected = [False] * prompt + [True] * labels + [False] * padding
        assert batch.label_mask[line].tolist() == expected
    assert batch.label_tokens == sum(shapes[row][1] for row in rows)
    assert batch.real_tokens == sum(sum(shapes[row]) for row in rows)


@given(
    count=st.integers(1, 20),
    size=st.integers(1, 9),
    steps=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_local_batches_pass_over_all_rows_evenly(
    count: int, size: int, steps: int, seed: int
) -> None:
    rows = np.arange(100, 100 + count)
    chosen = local_batches(rows, size, steps, seed, 3, 7)
    assert chosen.shape == (steps, size)
    seen = np.bincount(chosen.ravel() - 100, minlength=count)
    assert seen.max() - seen.min() <= 1


def test_the_order_depends_on_seed_round_and_client_alone() -> None:
    rows = np.arange(50)
    first = local_batches(rows, 8, 4, 0, 0, 0)
    np.testing.assert_array_equal(first, local_batches(rows, 8, 4, 0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not np.array_equal(first, local_batches(rows, 8, 4, *other))
    # More steps begin with the same batches, so a longer run of one round repeats the shorter one.
    np.testing.assert_array_equal(first, local_batches(rows, 8, 9, 0, 0, 0)[:4])


@pytest.mark.parametrize("tokens", [1, 13, 16, 1000])
def test_evaluation_sees_every_row_once(tokens: int) -> None:
    encoded = _encoded([(1 + n % 5, 1 + n % 3) for n in range(20)])
    batches = list(rows_alike(encoded.length, tokens))
    for batch, following in zip(batches, [*batches[1:], batches[0][:0]], strict=True):
        longest = encoded.length[batch].max()
        assert len(batch) == 1 or len(batch) * longest <= tokens
        # Another row would have been too many.
        if len(following):
            assert (len(batch) + 1) * encoded.length[following[0]] > tokens
    assert sorted(np.concatenate(batches).tolist()) == list(range(20))
    lengths = encoded.length[np.concatenate(batches)]
    assert (np.diff(lengths) >= 0).all()
