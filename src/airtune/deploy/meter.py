"""Hooks of a deployed run for what measures it; without a measurement they do nothing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airtune.deploy.messages import Measuring
from airtune.deploy.wire import Frame

if TYPE_CHECKING:
    from airtune.federated.backends.backend import ClientTask
    from airtune.federated.context import RoundContext


class Meter:
    """Hooks in the order of a round of a server; calls for several clients may overlap."""

    def opened(self, context: "RoundContext") -> None:
        """The server side is complete."""

    def before(self, tasks: "Sequence[ClientTask]") -> None:
        """A round is planned, and nothing of it is sent yet."""

    def measuring(self, task: "ClientTask") -> Measuring | None:
        """What a client is asked to measure in this task."""
        return None

    def crossing(self, client: int, kind: str, step: int) -> None:
        """A message of a split model is about to go to a client."""

    def crossed(self, client: int, step: int, frame: Frame) -> None:
        """A message of a split model has come from a client."""

    def after(self, answers: Mapping[int, Any]) -> None:
        """All answers of the round are here, client -> `hub.Open`."""
