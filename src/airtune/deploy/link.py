"""The server's end of one split client: its messages, with a deadline for each."""

import time
from typing import final

from airtune.config.experiment import DeploySection
from airtune.deploy.hub import Hub
from airtune.deploy.wire import Frame, WireError
from airtune.errors import ClientLostError, DivergedError
from airtune.federated.backends.backend import ClientTask, kept_mark
from airtune.tuning.split.client import ClientResult

ACTIVATIONS, HIDDEN, HIDDEN_GRADIENT, GRADIENT = (
    "activations",
    "hidden",
    "hidden gradient",
    "gradient",
)
REPORT, TAKEN = "report", "taken"
BODY = "payload"
"""The part of a message that holds what crosses the cut."""
LOOKS_EVERY_S = 0.5


@final
class RemoteHalf:
    """A `ClientLink` to a client that trains its half elsewhere.

    A client that does not send a due message for `deploy.step_s`, or is not connected for
    `deploy.patience_s`, is lost for this round.
    """

    def __init__(self, hub: Hub, task: ClientTask, steps: int, settings: DeploySection) -> None:
        self.steps = steps
        self._hub, self._client, self._settings = hub, task.client, settings
        self._round = task.round_index
        self._pipe = hub.pipes[task.client]
        self._step = 0

    def activations(self, step: int) -> bytes:
        """What came up in this step."""
        self._step = step
        return self._receive(ACTIVATIONS).parts[BODY]

    def send_hidden(self, payload: bytes) -> None:
        """Hidden states, down."""
        self._send(HIDDEN, payload)

    def hidden_gradient(self) -> tuple[bytes, float]:
        """The gradient of the hidden states and the loss of the step."""
        frame = self._receive(HIDDEN_GRADIENT)
        loss = frame.head.get("loss")
        if not isinstance(loss, int | float):
            raise self._lost("sent no loss beside its gradient")
        return frame.parts[BODY], float(loss)

    def send_gradient(self, payload: bytes) -> None:
        """The gradient at the cut, down."""
        self._send(GRADIENT, payload)

    def finish(self) -> ClientResult:
        """The client's change as it encoded it."""
        frame = self._receive(REPORT)
        self._pipe.send(Frame(TAKEN))
        carried = kept_mark(self._round) if frame.head.get("keeps") else {}
        return ClientResult({}, carried, frame.parts[BODY])

    def close(self) -> None:
        """End the conversation."""
        self._pipe.close("The round is over.")

    def _send(self, kind: str, payload: bytes) -> None:
        self._hub.meter.crossing(self._client, kind, self._step)
        self._pipe.send(Frame(kind, {"step": self._step}, {BODY: payload}))

    def _receive(self, kind: str) -> Frame:
        began, frame = time.monotonic(), None
        while frame is None:
            try:
                frame = self._pipe.receive(kind, LOOKS_EVERY_S)
            except TimeoutError:
                self._check_patience(kind, time.monotonic() - began)
            except WireError as error:
                raise self._lost(str(error).rstrip(".")) from None
        if frame.head.get("step", self._step) != self._step or BODY not in frame.parts:
            raise self._lost(f"sent a message {kind!r} of another step")
        self._hub.meter.crossed(self._client, self._step, frame)
        return frame

    def _check_patience(self, kind: str, waited_s: float) -> None:
        settings = self._settings
        with self._hub.changed:
            problem = self._hub.open[self._client].problem
            gone = not self._hub.connected(self._client)
            since = self._hub.sessions[self._client].gone_since
        if problem is not None and problem.diverged:
            raise DivergedError(problem.sentence)
        if problem is not None:
            raise self._lost("cannot go on")
        away_s = time.monotonic() - since if gone else 0.0
        if waited_s > settings.step_s or min(waited_s, away_s) > settings.patience_s:
            raise self._lost(f"sent no {kind} for {waited_s:.0f} s")

    def _lost(self, why: str) -> ClientLostError:
        self._pipe.close("The server goes on without this client in this round.")
        sentence = f"Client {self._client} {why}: it is silent in this round."
        self._hub.say(sentence)
        return ClientLostError(sentence)
