"""Flower's Grid as the carrier, by its public API alone."""

from collections.abc import Collection, Iterator
from typing import Any, final

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from airtune.deploy.flower.carrier import Fault, Reply
from airtune.deploy.messages import TASK
from airtune.deploy.wire import Frame

RECORD = "airtune"
FAULTS = {3: Fault.EXPIRED, 4: Fault.EXPIRED, 5: Fault.GONE}
"""Flower's codes of an error; any other is a failed app."""


@final
class FlowerCarrier:
    """`Carrier` over the messages of a ServerApp: tasks as `train`, everything else as `query`."""

    def __init__(self, grid: Any) -> None:
        self._grid = grid

    def nodes(self) -> Collection[int]:
        """The nodes that are online."""
        return set(self._grid.get_node_ids())

    def send(self, node: int, frame: Frame, ttl_s: float) -> str | None:
        """Push one message."""
        kind = MessageType.TRAIN if frame.kind == TASK else MessageType.QUERY
        content = RecordDict({RECORD: ConfigRecord({"frame": frame.encode()})})
        message = Message(content, dst_node_id=node, message_type=kind, ttl=ttl_s)
        return next(iter(self._grid.push_messages([message])), None)

    def replies(self, messages: Collection[str]) -> Iterator[Reply]:
        """Pull what has come."""
        for message in self._grid.pull_messages(list(messages)):
            yield _reply(message)


def _reply(message: Any) -> Reply:
    name = message.metadata.reply_to_message_id
    if message.has_error():
        fault = FAULTS.get(message.error.code, Fault.FAILED)
        return Reply(name, problem=str(message.error.reason), fault=fault)
    found = message.content.get(RECORD)
    values = dict(found) if isinstance(found, ConfigRecord) else {}
    client, frame = values.get("client"), values.get("frame", b"")
    problem = values.get("problem", "")
    if type(client) is not int or not isinstance(frame, bytes) or not isinstance(problem, str):
        return Reply(name, problem="its app is another one", fault=Fault.FAILED)
    return Reply(name, client, frame, problem)
