"""What the rounds of a run depend on, as its checkpoint holds it, and how it differs later.

Keys are held with their values, contents (data, weights, files, the source of user-defined
parts) by a digest. Paths are not held, only the contents of what is there.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
_NAMED = 4
"""Clients that a sentence names one by one."""


def _no_shards() -> NDArray[np.uint8]:
    return np.zeros((0, DIGEST_BYTES), np.uint8)


@dataclass(frozen=True)
class Fingerprint:
    """`keys` by dotted name, JSON values; `contents` name -> hexadecimal digest.

    `shards` [client, byte] uint8: the digest of each client's formatted and tokenised rows, one a
    client, so that a client that holds its rows elsewhere can state its own.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    shards: NDArray[np.uint8] = field(default_factory=_no_shards)


@dataclass(frozen=True)
class Difference:
    """`name` is a key, or names the content; `before` and `after` are values of a key."""

    name: str
    before: Any = None
    after: Any = None
    is_key: bool = False

    def __str__(self) -> str:
        if not self.is_key:
            return f"{self.name} differs"
        return f"{self.name} is {_shown(self.after)} and was {_shown(self.before)}"


def differing_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Keys with another value; one that either side lacks is no difference.

    A later version of airtune has other keys: a run that does not have one runs at its default.
    """
    return [
        Difference(key, before[key], after[key], is_key=True)
        for key in before
        if key in after and before[key] != after[key]
    ]


def differing_contents(before: Fingerprint, after: Fingerprint) -> list[Difference]:
    """Contents that are not what they were, by name; the clients' data in one entry."""
    names = sorted({*before.contents, *after.contents})
    found = [
        Difference(name, before.contents.get(name), after.contents.get(name))
        for name in names
        if before.contents.get(name) != after.contents.get(name)
    ]
    if len(before.shards) != len(after.shards):
        counts = f"the number of clients that hold training data ({len(after.shards)}, and was "
        name = f"{counts}{len(before.shards)})"
    else:
        changed = np.flatnonzero((before.shards != after.shards).any(axis=1)).tolist()
        name = _training_data(changed) if changed else ""
    return [*found, Difference(name, _of_all(before), _of_all(after))] if name else found


def _of_all(known: Fingerprint) -> str:
    return hashlib.sha256(known.shards.tobytes()).hexdigest()[: 2 * DIGEST_BYTES]


def _training_data(clients: Sequence[int]) -> str:
    named = ", ".join(str(client) for client in clients[:_NAMED])
    rest = f" and {len(clients) - _NAMED} more" if len(clients) > _NAMED else ""
    return f"the training data of client{'s' if len(clients) > 1 else ''} {named}{rest}"


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
