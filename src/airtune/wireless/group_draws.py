"""Draws of several streams in one call of a library that draws from one generator.

The library is given all clients as one batch. Wherever it draws, the leading axis is that of the
clients, and every client's numbers come from the stream of its own group instead: the same numbers,
in the same order, as if each group were computed by a call of its own from its own seed.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch.overrides import TorchFunctionMode

from airtune.errors import AirtuneError


@final
class GroupDraws(TorchFunctionMode):
    """While it is entered, torch's draws with a generator come from these streams.

    Args:
        seeds: one for each group.
        size: clients of a group; each draw has numbers for all of them.
        places: which of the groups' clients, one after another, the batch consists of [client].

    Raises AirtuneError for a draw whose leading axis is not that of the batch.
    """

    def __init__(self, seeds: Sequence[int], size: int, places: Sequence[int]) -> None:
        super().__init__()
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._size, self._places = size, torch.tensor(places)
        self._whole = list(places) == list(range(size * len(seeds)))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if named.get("generator") is None:
            return func(*args, **named)
        positional, named = list(args), dict(named)
        place = next((k for k, one in enumerate(args) if isinstance(one, list | tuple)), None)
        shape = named.pop("size") if place is None else positional[place]
        if not len(shape) or shape[0] != len(self._places):
            raise AirtuneError(
                f"The installed Sionna draws numbers of the shape {tuple(shape)} for "
                f"{len(self._places)} clients: install sionna-no-rt 2.1 or 2.2."
            )
        part = (self._size, *shape[1:])
        if place is None:
            named["size"] = part
        else:
            positional[place] = part
        drawn = torch.cat([func(*positional, **named | {"generator": s}) for s in self._streams])
        return drawn if self._whole else drawn[self._places]
