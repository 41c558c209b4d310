"""Hands every message to the trainer of this machine, `airtune deploy trainer`.

Flower starts a new process for every message. This one imports flwr and the standard library alone;
the trainer keeps the model and the rows loaded.
"""

import json
import socket
import struct

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def ask(path: str, client: int, frame: bytes) -> bytes:
    """The trainer's answer to a frame; OSError where there is none."""
    outer = {"kind": "handover", "parts": [["frame", len(frame)]], "head": {"client": client}}
    head = json.dumps(outer).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        line.sendall(struct.pack(">I", len(head)) + head + frame)
        line.shutdown(socket.SHUT_WR)
        pieces = list(iter(lambda: line.recv(1 << 16), b""))
    if not pieces:
        raise ConnectionAbortedError("it ended without an answer")
    return b"".join(pieces)


@app.query()
@app.train()
def hand_over(message: Message, context: Context) -> Message:
    """The trainer's answer, or why there is none, with the number of this client."""
    client, path = context.node_config.get("client"), context.node_config.get("socket")
    answer: dict[str, int | str | bytes] = {"client": -1}
    if type(client) is not int or not isinstance(path, str):
        answer["problem"] = "its SuperNode needs --node-config 'client=NUMBER socket=\"PATH\"'"
    else:
        answer["client"] = client
        try:
            answer["frame"] = ask(path, client, bytes(message.content["airtune"]["frame"]))
        except OSError as error:
            answer["problem"] = f"no trainer answers at {path} ({error}): start it there"
    return Message(RecordDict({"airtune": ConfigRecord(answer)}), reply_to=message)
