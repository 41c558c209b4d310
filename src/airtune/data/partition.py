"""Which client holds which examples: IID, Dirichlet by label, by a column, by size."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.data.tasks import Example
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.seeds import generator

IntArray = NDArray[np.int64]
KINDS = ("iid", "dirichlet", "column", "size")


@dataclass(frozen=True)
class Partition:
    """Disjoint shards that together hold every row; `shards[k]` are client k's rows, ascending."""

    rows: IntArray
    starts: IntArray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, client: int) -> IntArray:
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.rows[self.starts[client] : self.starts[client + 1]]

    @property
    def sizes(self) -> IntArray:
        """Rows of each client [client]."""
        return np.diff(self.starts)


def partition(
    examples: Sequence[Example],
    clients: int,
    kind: str = "iid",
    concentration: float = 0.5,
    column: str | None = None,
    seed: int = 0,
) -> Partition:
    """Split examples over clients; every client gets at least one.

    `iid`: shards of equal size (within one), drawn at random.
    `dirichlet`: each label's rows are shared out by a draw from Dirichlet(concentration); labels
    are the examples' own, or the values of `column`.
    `column`: rows with the same value of `column` stay together; groups go to clients so that
    shards are as even as the largest groups allow.
    `size`: log-normal shard sizes (see `by_size`), rows drawn at random.

    Raises InputError that names the first client left empty, and the remedy.
    """
    if clients < 1:
        raise InputError("clients.count", clients, "at least 1")
    if len(examples) < clients:
        raise InputError(
            "clients.count", clients, f"at most {len(examples)}, the number of training rows",
            f"client {len(examples)} would hold no row",
        )  # fmt: skip
    if kind == "iid":
        return iid(len(examples), clients, seed)
    if kind == "dirichlet":
        return dirichlet(_labels(examples, column), clients, concentration, seed)
    if kind == "column":
        if column is None:
            raise InputError(
                "data.partition.column", None, "given where data.partition.kind is column",
                "name a column of the training data",
            )  # fmt: skip
        return by_column(column_values(examples, column), clients)
    if kind == "size":
        return by_size(len(examples), clients, concentration, seed)
    raise InputError("data.partition.kind", kind, f"one of {', '.join(KINDS)}")


def iid(count: int, clients: int, seed: int) -> Partition:
    """Rows 0..count-1 dealt out at random, shard sizes differing by one at most."""
    order = generator(seed, "partition").permutation(count)
    owner = np.empty(count, dtype=np.int64)
    owner[order] = np.arange(count) % clients
    return _from_owner(owner, clients)


def dirichlet(labels: Sequence[str], clients: int, concentration: float, seed: int) -> Partition:
    """For each label, shares p ~ Dirichlet(concentration, ..., concentration) over the clients.

    Source: Yurochkin et al. 2019 (arXiv 1905.12022, section 4.1) and Li et al. 2022 (arXiv
    2102.02079, section IV-A). A small concentration gives each label to few clients; shard sizes
    differ too. Left out: balancing of the sizes.
    """
    _check_concentration(concentration)
    names, label = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise InputError(
            "data.partition.kind", "dirichlet", "another kind where all rows have one label",
            "use iid, or name a data.partition.column whose values are labels",
        )  # fmt: skip
    stream = generator(seed, "partition")
    owner = np.empty(len(label), dtype=np.int64)
    by_label = np.argsort(label, kind="stable")
    for rows in np.split(by_label, np.cumsum(np.bincount(label))[:-1]):
        share = stream.dirichlet(np.full(clients, concentration))
        # The cut points of the shares in [0, rows): linear in rows + clients.
        cuts = np.rint(np.cumsum(share)[:-1] * len(rows)).astype(np.int64)
        owner[stream.permutation(rows)] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
    return _from_owner(owner, clients, "raise data.partition.concentration")


def by_column(values: Sequence[str], clients: int) -> Partition:
    """Whole groups of equal values to clients: the largest group first, to the smallest shard.

    No randomness; ties go by value and client number.
    """
    sizes = Counter(values)
    if len(sizes) < clients:
        raise InputError(
            "clients.count", clients, f"at most {len(sizes)}, the number of different values",
            f"client {len(sizes)} would hold no row; choose another data.partition.column",
        )  # fmt: skip
    loads = [(0, client) for client in range(clients)]
    client_of: dict[str, int] = {}
    for value, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        load, client = loads[0]
        heapq.heapreplace(loads, (load + size, client))
        client_of[value] = client
    return _from_owner(np.array([client_of[value] for value in values]), clients)


def by_size(
    count: int, clients: int, concentration: float, seed: int, law: str = "lognormal"
) -> Partition:
    """Random rows in shards of unequal size: sizes proportional to independent draws x_k.

    Under both laws the coefficient of variation of x is 1/sqrt(concentration), as it is for the
    shares of a Dirichlet over many clients, so that the key means the same everywhere:

        lognormal: ln x ~ N(0, sigma^2) with sigma^2 = ln(1 + 1/concentration)
        power:     P(x > t) = t^-alpha, t >= 1, with alpha = 1 + sqrt(1 + concentration)

    Every client keeps one row, and the rest is rounded by the largest remainder.
    """
    _check_concentration(concentration)
    stream = generator(seed, "partition")
    if law == "lognormal":
        weight = np.exp(stream.normal(0.0, np.sqrt(np.log1p(1.0 / concentration)), clients))
    elif law == "power":
        alpha = 1.0 + np.sqrt(1.0 + concentration)
        weight = (1.0 - stream.random(clients)) ** (-1.0 / alpha)
    else:
        raise InputError("law", law, "lognormal or power")
    sizes = 1 + _largest_remainder(weight, count - clients)
    owner = np.empty(count, dtype=np.int64)
    owner[stream.permutation(count)] = np.repeat(np.arange(clients), sizes)
    return _from_owner(owner, clients)


def _largest_remainder(weight: FloatArray, total: int) -> IntArray:
    """Integers proportional to the weights, each rounded down or up, that sum to `total`."""
    exact = weight * (total / weight.sum())
    sizes: IntArray = np.floor(exact).astype(np.int64)
    short = total - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:short]] += 1
    return sizes


def column_values(examples: Sequence[Example], column: str) -> list[str]:
    """Each example's value in a column of the source, or of a slot of that name."""
    values = []
    for example in examples:
        slots = (slot.value for slot in example.slots if slot.name == column)
        values.append(example.columns.get(column) or next(slots, ""))
    if not any(values):
        known = {*examples[0].columns, *(slot.name for slot in examples[0].slots)}
        raise InputError(
            "data.partition.column", column,
            f"a column of the training data ({', '.join(sorted(known)) or 'it has none'})",
        )  # fmt: skip
    return values


def _labels(examples: Sequence[Example], column: str | None) -> list[str]:
    if column is not None:
        return column_values(examples, column)
    return [example.label for example in examples]


def _check_concentration(concentration: float) -> None:
    if not (np.isfinite(concentration) and concentration > 0):
        raise InputError("data.partition.concentration", concentration, "a positive number")


def _from_owner(owner: IntArray, clients: int, remedy: str = "") -> Partition:
    """Shards from each row's client, in linear time. Refuses an empty shard."""
    sizes = np.bincount(owner, minlength=clients)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        advice = "use fewer clients or more rows"
        raise InputError(
            f"client {empty[0]}", f"without a training row ({len(empty)} of {clients} are)",
            "the holder of at least one", f"{remedy}, or {advice}" if remedy else advice,
        )  # fmt: skip
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Partition(np.argsort(owner, kind="stable"), starts)
