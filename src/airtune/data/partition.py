"""Partition of examples over clients: IID, Dirichlet by label, by a column, by size."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from airtune.data.tasks import Example
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.seeds import generator

IntArray = NDArray[np.int64]
_MOST_DRAWS, _FEWEST_DRAWS = 1000, 10
_DRAWN_ROWS = 100_000_000
"""Rows and shares that are drawn, all together, before a partition is given up: some seconds."""
KINDS = ("iid", "dirichlet", "column", "size")


@dataclass(frozen=True)
class Partition:
    """Disjoint shards that together hold every row; `shards[k]` are client k's rows, ascending.

    `redraws` counts the draws that left some client short, before the one that is used.
    """

    rows: IntArray
    starts: IntArray
    redraws: int = 0

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
    min_rows: int = 1,
) -> Partition:
    """Split examples over clients; every client gets at least `min_rows`.

    `iid`: shards of equal size (within one), drawn at random.
    `dirichlet`: each label's rows are shared out by a draw from Dirichlet(concentration); labels
    are the examples' own, or the values of `column`. A draw that leaves a client short is repeated.
    `column`: rows with the same value of `column` stay together; groups go to clients so that
    shards are as even as the largest groups allow.
    `size`: log-normal shard sizes (see `by_size`), rows drawn at random.

    Raises InputError that names the first client left short, and the remedy.
    """
    if clients < 1:
        raise InputError("clients.count", clients, "at least 1")
    if len(examples) < clients:
        raise InputError(
            "clients.count",
            clients,
            f"at most {len(examples)}, the number of training rows",
            f"client {len(examples)} would hold no row",
        )
    if not 1 <= min_rows <= len(examples) // clients:
        raise InputError(
            "data.partition.min_rows",
            min_rows,
            f"from 1 to {len(examples) // clients}, the {len(examples)} training rows over "
            f"{clients} clients",
        )
    if kind == "iid":
        return iid(len(examples), clients, seed)
    if kind == "dirichlet":
        labels = _labels(examples, column)
        return dirichlet(labels, clients, concentration, seed, min_rows)
    if kind == "column":
        if column is None:
            raise InputError(
                "data.partition.column",
                None,
                "given where data.partition.kind is column",
                "name a column of the training data",
            )
        return _enough(by_column(_filled(examples, column), clients), min_rows)
    if kind == "size":
        return by_size(len(examples), clients, concentration, seed, min_rows=min_rows)
    raise InputError("data.partition.kind", kind, f"one of {', '.join(KINDS)}")


def by_file(owners: Sequence[int | None], files: int, clients: int, min_rows: int = 1) -> Partition:
    """Each row to the client whose file it is in; `owners` [row] are numbers of files.

    Raises InputError where there are not as many clients as files, or a file gave no row.
    """
    if clients != files:
        raise InputError(
            "clients.count",
            clients,
            f"{files}, the number of files of clients in data.train",
            f"set clients.count={files}",
        )
    found = _from_owner(np.array(owners, dtype=np.int64), clients)
    fewest = int(found.sizes.argmin())
    if found.sizes[fewest] < min_rows:
        raise InputError(
            "data.partition.min_rows",
            min_rows,
            f"at most {found.sizes[fewest]}, the rows in the file of client {fewest}",
        )
    return found


def iid(count: int, clients: int, seed: int) -> Partition:
    """Rows 0..count-1 in random shards whose sizes differ by one at most."""
    order = generator(seed, "partition").permutation(count)
    owner = np.empty(count, dtype=np.int64)
    owner[order] = np.arange(count) % clients
    return _from_owner(owner, clients)


def dirichlet(
    labels: Sequence[str], clients: int, concentration: float, seed: int, min_rows: int = 1
) -> Partition:
    """For each label, shares p ~ Dirichlet(concentration, ..., concentration) over the clients.

    A draw that leaves some client with fewer than `min_rows` rows is repeated, with a stream of its
    own that depends on the seed and the number of the draw alone: the law is that of the shares
    given that no client is short. Raises InputError after the most draws allowed.

    Source: Yurochkin et al. 2019 (arXiv 1905.12022, section 4.1) and Li et al. 2022 (arXiv
    2102.02079, section IV-A). A small concentration gives each label to few clients; shard sizes
    differ too. Left out: balancing of the sizes.
    """
    _check_concentration(concentration)
    names, label = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise InputError(
            "data.partition.kind",
            "dirichlet",
            "another kind where all rows have one label",
            "use iid, or name a data.partition.column whose values are labels",
        )
    by_label = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    draws = max(_FEWEST_DRAWS, min(_MOST_DRAWS, _DRAWN_ROWS // (len(label) + clients * len(names))))
    sizes = np.zeros(clients, dtype=np.int64)
    for redraws in range(draws):
        # The first draw is the only one of earlier versions, to the same bytes.
        stream = generator(seed, "partition", redraws)
        owner = _dirichlet_owner(by_label, clients, concentration, stream)
        sizes = np.bincount(owner, minlength=clients)
        if sizes.min() >= min_rows:
            return replace(_from_owner(owner, clients), redraws=redraws)
    short = np.flatnonzero(sizes < min_rows)
    raise InputError(
        f"client {short[0]}",
        f"short of {min_rows} training rows ({len(short)} of {clients} are, after {draws} draws)",
        "the holder of at least data.partition.min_rows",
        "raise data.partition.concentration, or use fewer clients or more rows",
    )


def _dirichlet_owner(
    by_label: Sequence[IntArray], clients: int, concentration: float, stream: np.random.Generator
) -> IntArray:
    owner = np.empty(sum(len(rows) for rows in by_label), dtype=np.int64)
    for rows in by_label:
        share = stream.dirichlet(np.full(clients, concentration))
        # The cut points of the shares in [0, rows): linear in rows + clients.
        cuts = np.rint(np.cumsum(share)[:-1] * len(rows)).astype(np.int64)
        owner[stream.permutation(rows)] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
    return owner


def by_column(values: Sequence[str], clients: int) -> Partition:
    """Whole groups of equal values to clients: the largest group first, to the smallest shard.

    No randomness; ties go by value and client number.
    """
    sizes = Counter(values)
    if len(sizes) < clients:
        raise InputError(
            "clients.count",
            clients,
            f"at most {len(sizes)}, the number of different values",
            f"client {len(sizes)} would hold no row; choose another data.partition.column",
        )
    loads = [(0, client) for client in range(clients)]
    client_of: dict[str, int] = {}
    for value, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        load, client = loads[0]
        heapq.heapreplace(loads, (load + size, client))
        client_of[value] = client
    return _from_owner(np.array([client_of[value] for value in values]), clients)


def by_size(
    count: int,
    clients: int,
    concentration: float,
    seed: int,
    law: str = "lognormal",
    min_rows: int = 1,
) -> Partition:
    """Random rows in shards of unequal size: sizes proportional to independent draws x_k.

    Under both laws the coefficient of variation of x is 1/sqrt(concentration), as it is for the
    shares of a Dirichlet over many clients, so that the key means the same everywhere:

        lognormal: ln x ~ N(0, sigma^2) with sigma^2 = ln(1 + 1/concentration)
        power:     P(x > t) = t^-alpha, t >= 1, with alpha = 1 + sqrt(1 + concentration)

    Every client keeps `min_rows` rows, and the rest is rounded by the largest remainder.
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
    sizes = min_rows + _largest_remainder(weight, count - clients * min_rows)
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
            "data.partition.column",
            column,
            f"a column of the training data ({', '.join(sorted(known)) or 'it has none'})",
        )
    return values


def _filled(examples: Sequence[Example], column: str) -> list[str]:
    """`column_values` of a column that no row lacks; a slot may be absent, which is a value."""
    values = column_values(examples, column)
    missing = 0 if _is_slot(examples, column) else values.count("")
    if missing:
        raise InputError(
            "data.partition.column",
            column,
            "a column with a value in every training row",
            f"{missing} of {len(values)} have none: fill them, or remove the rows",
        )
    return values


def _is_slot(examples: Sequence[Example], column: str) -> bool:
    return any(slot.name == column for example in examples for slot in example.slots)


def _labels(examples: Sequence[Example], column: str | None) -> list[str]:
    if column is not None:
        return _filled(examples, column)
    labels = [example.label for example in examples]
    missing = labels.count("")
    if 0 < missing < len(labels):
        raise InputError(
            "data.partition.kind",
            "dirichlet",
            "iid, size or column where labels are missing",
            f"{missing} of {len(labels)} training rows have no `label`: fill them, or remove the "
            "rows",
        )
    return labels


def _enough(made: Partition, min_rows: int) -> Partition:
    short = np.flatnonzero(made.sizes < min_rows)
    if len(short):
        raise InputError(
            "data.partition.min_rows",
            min_rows,
            f"at most {int(made.sizes.min())}, the rows of client {int(made.sizes.argmin())}",
            "kind column assigns whole groups: lower min_rows, or use fewer clients",
        )
    return made


def _check_concentration(concentration: float) -> None:
    if not (np.isfinite(concentration) and concentration > 0):
        raise InputError("data.partition.concentration", concentration, "a positive number")


def _from_owner(owner: IntArray, clients: int) -> Partition:
    """Shards from each row's client, in linear time. Refuses an empty shard."""
    sizes = np.bincount(owner, minlength=clients)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise InputError(
            f"client {empty[0]}",
            f"without a training row ({len(empty)} of {clients} are)",
            "the holder of at least one",
            "use fewer clients or more rows",
        )
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Partition(np.argsort(owner, kind="stable"), starts)
