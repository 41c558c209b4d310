"""What a plan weighs: numbers of ranks to choose from, and the variance of each."""

import numpy as np

from airtune.quantities import FloatArray


def rank_choices(least_rank: int | None, rank: int) -> tuple[int, ...]:
    """Numbers of ranks, the largest first: all, then halves of it down to the least."""
    choices = [rank]
    while least_rank is not None and choices[-1] > least_rank:
        choices.append(max(choices[-1] // 2, least_rank))
    return tuple(choices)


def variance_terms(
    weights: FloatArray, norms: FloatArray, ranks: tuple[int, ...], alignment: float
) -> tuple[FloatArray, float]:
    """`v_n(k) = a_n^2 G_n^2 r / k` [client, choice], and a0.

    With independent draws the mean square of the estimated update is
    `|sum a_n x_n|^2 + sum a_n^2 |x_n|^2 (r / (k_n q_n) - 1)`; with norms G_n and one cosine c
    between updates the first term is `sum a_n^2 G_n^2 + c ((sum a_n G_n)^2 - sum a_n^2 G_n^2)`, so
    `a0 = c ((sum a_n G_n)^2 - sum a_n^2 G_n^2)`.
    """
    squares = (weights * norms) ** 2
    common = float((weights * norms).sum()) ** 2 - float(squares.sum())
    return squares[:, None] * ranks[0] / np.array(ranks), alignment * max(common, 0.0)
