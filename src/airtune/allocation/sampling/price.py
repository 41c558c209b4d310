"""Probabilities and ranks at one deadline: the price at which the expected band is just used."""

from dataclasses import dataclass

import numpy as np

from airtune.quantities import FloatArray

_STEPS = 100
_WIDTH = 1e-8
"""Of the bracket of the price: what the dual loses by it is this times one client's jump."""
_PROPOSALS = 4
"""Prices of fixed options that are tried before the bracket is halved; most often one settles."""
_BLOCK = 4096
"""Clients at a time: many passes over few numbers stay in the processor's cache."""


@dataclass(frozen=True)
class Cleared:
    """At one deadline: probabilities and options [client], and what they are worth.

    `variance` is `sum v / q` of a plan that fits the band; `bound` is at most that of any plan at
    this deadline (the Lagrange dual); `price` is the multiplier of the band.
    """

    inclusion: FloatArray
    option: np.ndarray
    price: float
    variance: float
    bound: float


def clear(
    band: FloatArray, variance: FloatArray, budget: float, start: float = 0.0
) -> Cleared | None:
    """The least `sum v / q` with `sum q b <= budget`, over probabilities and options.

    `band` and `variance` [client, option]; `band` is inf where an option cannot keep the deadline.
    None where a client that counts cannot keep it at all. With one option a client the answer is
    exact; with several the price is that of the dual, and options jump where it does. `start` is a
    guess of the price (0: none), such as that of a deadline nearby.
    """
    usable = np.isfinite(band)
    if not (usable.any(axis=1) | ~(variance > 0).any(axis=1)).all():
        return None
    worth = np.where(usable, variance, np.inf)
    best = worth.argmin(axis=1)
    b, v = _chosen(band, variance, best)
    if b.sum() <= budget:
        value = float(v.sum())
        return Cleared((v > 0).astype(float), best, 0.0, value, value)
    if band.shape[1] == 1:
        inclusion, price = clipped(b, v, budget)
        value = _value(v, inclusion)
        return Cleared(inclusion, best, price, value, value)
    # While no probability is at 1 the option of least v b is the best one, whatever the price.
    option = np.where(usable, variance * np.where(usable, band, 0.0), np.inf).argmin(axis=1)
    found = _dual(band, variance, budget, option, start)
    return _cleared(band, variance, found.option, budget, found.bound)


@dataclass(frozen=True)
class _Dual:
    option: np.ndarray
    bound: float


def _dual(
    band: FloatArray, variance: FloatArray, budget: float, option: np.ndarray, start: float
) -> _Dual:
    """The price at which the options of least cost need the budget, from above.

    Demand falls with the price and jumps where options change. The price of the options last found
    is exact where they do not change; otherwise the bracket is halved.
    """
    low, high, bound = 0.0, np.inf, -np.inf
    feasible = option
    b, v = _chosen(band, variance, option)
    price = clipped(b, v, budget)[1]
    clears = price > 0 and not start  # the price is that of `option`
    if not clears:
        price = start or float(v.sum() / b.sum())
    step = 1e-3 if start else 1.0
    for turn in range(_STEPS):
        choice, cost, demand = _answers(band, variance, price)
        bound = max(bound, cost - price * budget)
        if clears and (choice == option).all():
            return _Dual(choice, bound)
        low, high = (price, high) if demand > budget else (low, price)
        feasible = feasible if demand > budget else choice
        if low > 0 and np.isfinite(high) and high - low <= _WIDTH * high:
            break
        option, proposal = choice, 0.0
        if turn < _PROPOSALS:
            proposal = clipped(*_chosen(band, variance, choice), budget)[1]
        clears = low < proposal < high
        if clears:
            price = proposal
        elif low > 0 and np.isfinite(high):
            price = (low * high) ** 0.5
        else:
            price = low * (1.0 + step) if low else high / (1.0 + step)
            step *= 4.0
    return _Dual(feasible, bound)


def _cleared(
    band: FloatArray,
    variance: FloatArray,
    option: np.ndarray,
    budget: float,
    bound: float,
) -> Cleared:
    """The exact probabilities for these options."""
    rows = np.arange(len(band))
    b, v = band[rows, option], variance[rows, option]
    b = np.where(v > 0, b, 0.0)
    inclusion, price = clipped(b, v, budget)
    value = _value(v, inclusion)
    return Cleared(inclusion, option, price, value, min(bound, value))


def _value(v: FloatArray, inclusion: FloatArray) -> float:
    """`sum v / q`, over the clients that count."""
    counts = v > 0
    return float((v[counts] / inclusion[counts]).sum())


def _chosen(
    band: FloatArray, variance: FloatArray, option: np.ndarray
) -> tuple[FloatArray, FloatArray]:
    """Band and variance of one option a client; a client that counts nothing needs no band."""
    rows = np.arange(len(band))
    v = variance[rows, option]
    return np.where(v > 0, band[rows, option], 0.0), v


def clipped(b: FloatArray, v: FloatArray, budget: float) -> tuple[FloatArray, float]:
    """`q = min(1, sqrt(v / (mu b)))` with `sum q b = budget`, and mu; exact, by sorting.

    Clients in the order of falling v / b: the first c of them have q = 1, and of every c the price
    follows in closed form, `1 / sqrt(mu) = (budget - sum_{first c} b) / sum_{others} sqrt(v b)`.
    """
    if b.sum() <= budget:
        return np.where(v > 0, 1.0, 0.0), 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(b > 0, v / b, np.inf)
    order = np.argsort(-ratio, kind="stable")
    sorted_b, root = b[order], np.sqrt(v[order] * b[order])
    before = np.concatenate([[0.0], np.cumsum(sorted_b)[:-1]])
    rest = np.cumsum(root[::-1])[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (budget - before) / rest
        # The first client that is left out of the clipped ones must not be above 1 itself.
        first = int(np.argmax(scale * np.sqrt(ratio[order]) <= 1.0 + 1e-15))
        level = float(scale[first])
        inclusion = np.where(np.isinf(ratio), 1.0, np.minimum(1.0, level * np.sqrt(ratio)))
    inclusion[order[:first]] = 1.0
    return np.where(v > 0, inclusion, 0.0), 1.0 / (level * level)


def _answers(
    band: FloatArray, variance: FloatArray, price: float
) -> tuple[np.ndarray, float, float]:
    """Each client's best option at a price, the cost `sum v / q + price q b`, and the band."""
    option = np.empty(len(band), dtype=np.intp)
    total = demand = 0.0
    for begin in range(0, len(band), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        option[part], cost, needed = _block_answers(band[part], variance[part], price)
        total, demand = total + cost, demand + needed
    return option, total, demand


def _block_answers(
    band: FloatArray, variance: FloatArray, price: float
) -> tuple[np.ndarray, float, float]:
    paid = price * band
    with np.errstate(invalid="ignore"):
        cost = np.where(variance >= paid, variance + paid, 2.0 * np.sqrt(variance * paid))
    cost[~(variance > 0)] = 0.0
    option = cost.argmin(axis=1)
    rows = np.arange(len(band))
    v, p = variance[rows, option], paid[rows, option]
    counts = v > 0
    # q b = min(b, sqrt(v b / price)).
    needed = np.minimum(p[counts], np.sqrt(v[counts] * p[counts])).sum() / price
    return option, float(cost[rows, option].sum()), float(needed)
