"""Between the validating server and the owner of its links: lines of JSON over a socket pair.

The owner has root's namespaces; the server asks it for rates and counters from within.
"""

import json
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, final

from airtune.deploy.links import LinkCounters, LinksError, ShapedLinks
from airtune.validation.rates import Rates

Counters = Mapping[int, LinkCounters]


class Links(Protocol):
    """What a meter asks of links."""

    def set(self, rates: Rates, counters: Sequence[int] = ()) -> Counters:
        """Change rates (0: as before), then read counters."""


@final
class LinksOwner:
    """The owner's end: a thread that answers until the other end is closed."""

    def __init__(self, links: ShapedLinks, ours: socket.socket) -> None:
        self._links, self._socket = links, ours
        self._now: dict[int, tuple[float, float]] = {}
        threading.Thread(target=self._serve, daemon=True, name="links").start()

    def _serve(self) -> None:
        with self._socket, self._socket.makefile("rw") as stream:
            for line in stream:
                try:
                    answer = self._answer(json.loads(line))
                except Exception as error:  # the server ends with this sentence
                    answer = {"error": str(error) or type(error).__name__}
                stream.write(json.dumps(answer) + "\n")
                stream.flush()

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        changed = {}
        for client, up_bps, down_bps in asked["rates"]:
            before = self._now.get(client, (1e9, 1e9))
            changed[client] = (up_bps or before[0], down_bps or before[1])
        self._links.all_rates(changed)
        self._now |= changed
        found = {client: self._links.counters(client) for client in asked["counters"]}
        return {"counters": {client: list(vars(count).values()) for client, count in found.items()}}


@final
class LinksAway:
    """The server's end. Thread-safe."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._stream = self._socket.makefile("rw")
        self._lock = threading.Lock()

    def set(self, rates: Rates, counters: Sequence[int] = ()) -> Counters:
        """Change rates (0: as before), then read counters. Raises LinksError."""
        asked = {
            "rates": [[client, up, down] for client, (up, down) in rates.items()],
            "counters": list(counters),
        }
        with self._lock:
            self._stream.write(json.dumps(asked) + "\n")
            self._stream.flush()
            line = self._stream.readline()
        gone = {"error": "The process that owns the links has ended."}
        answer: dict[str, Any] = json.loads(line) if line else gone
        if "error" in answer:
            raise LinksError(answer["error"])
        return {int(client): LinkCounters(*row) for client, row in answer["counters"].items()}
