"""What the parts of one method are made from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile

Made = TypeVar("Made")


@final
@dataclass(frozen=True)
class Bench:
    """The experiment, the adapted model, the clients' devices, and what parts share.

    Parts that must agree, such as a pruned client and its codec, share an object by a key.
    """

    config: ExperimentConfig
    model: Any
    devices: tuple[DeviceProfile, ...] = ()
    _shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def shared(self, key: str, make: Callable[[], Made]) -> Made:
        """The object of this key, made where it is first needed."""
        if key not in self._shared:
            self._shared[key] = make()
        made: Made = self._shared[key]
        return made
