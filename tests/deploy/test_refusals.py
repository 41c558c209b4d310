"""Who and what a server refuses, each with a sentence on both sides; it goes on afterwards."""

import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from airtune.deploy import messages
from airtune.deploy.connection import Connection, RefusedError
from airtune.deploy.hub import Hub
from airtune.deploy.issuing import make_keys, revoke
from airtune.deploy.keys import ClientKeys, read_client_keys, read_server_keys
from airtune.deploy.messages import (
    ANSWER,
    READY,
    TASK,
    Answer,
    Problem,
    Ready,
    Resume,
    Task,
)
from airtune.deploy.service import SERVICE, open_server
from airtune.deploy.wire import CHUNK, Frame, read_frame
from tests.deploy.harness import bare_job

RUN, PROCESS = "ab" * 16, "cd" * 8


class Served:
    """A server without a run behind it, and what it said."""

    def __init__(self, keys: Path) -> None:
        self.said: list[str] = []
        self.keys = keys
        self.hub = Hub(RUN, 2, self.said.append)
        self.hub.limits = {"payload": 1000}
        self.hub.job = bare_job(run=RUN)
        self.server, self.port = open_server(
            self.hub, "127.0.0.1:0", read_server_keys(keys / "server")
        )

    def dial(self, keys: ClientKeys) -> Connection:
        return Connection(f"localhost:{self.port}", keys.client, keys, lambda sentence: None)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    make_keys(tmp_path / "keys", 3)
    found = Served(tmp_path / "keys")
    yield found
    found.server.stop(0).wait()


@pytest.fixture
def line(served: Served) -> Iterator[Connection]:
    connection = served.dial(read_client_keys(served.keys / "client-0"))
    connection.unary("Join", introduction(0))
    yield connection
    connection.close()


def introduction(client: int, process: str = PROCESS) -> bytes:
    return messages.introduction(client, process).encode()


def refused(served: Served, connection: Connection, method: str, *pieces: bytes) -> str:
    """The sentence of a refusal, which the server said as well; another call still works."""
    before = len(served.said)
    with pytest.raises(RefusedError) as found:
        if method in ("Ready", "Answer"):
            connection.upload(method, pieces, 20.0)
        elif method in ("Work", "Split"):
            streams = {
                "Work": lambda: connection.download(method, pieces[0]),
                "Split": lambda: connection.both(method, iter(pieces)),
            }
            list(streams[method]())
        else:
            connection.unary(method, pieces[0])
    sentence = str(found.value).partition("refused this client: ")[2]
    assert any(sentence in said for said in served.said[before:])
    return sentence


def answer(**changes: Any) -> Answer:
    values = {
        "run": RUN,
        "round_index": 0,
        "attempt": 1,
        "client": 0,
        "train_loss": 1.0,
        "label_tokens": 3,
        "keeps": False,
        "compute_s": 0.0,
        "tune_s": 0.0,
    }
    return Answer(**{**values, **changes})


def test_the_certificate_decides_who_a_client_is(served: Served, line: Connection) -> None:
    said = refused(served, line, "Join", introduction(1))
    assert said == "Client 1 joined with the certificate of client 0."
    frame = Frame.of(ANSWER, answer(client=1), payload=b"")
    assert "answered as client 1" in refused(served, line, "Answer", frame.encode())


def test_a_client_beyond_the_experiment(served: Served) -> None:
    third = served.dial(read_client_keys(served.keys / "client-2"))
    assert "which has 2 clients from 0" in refused(served, third, "Join", introduction(2))
    assert "not of this run" in refused(served, third, "Answer", b"")
    third.close()


def test_a_revoked_client_while_the_server_runs(served: Served, line: Connection) -> None:
    revoke(served.keys, "client-0")
    assert "is revoked" in refused(served, line, "Join", introduction(0))


def test_answers_that_nobody_waits_for(served: Served, line: Connection) -> None:
    for head, problem in (
        (answer(), "An answer of client 0 to round 1 is not awaited."),
        (answer(run="ef" * 16), "The message is of another run"),
    ):
        frame = Frame.of(ANSWER, head, payload=b"x")
        assert problem in refused(served, line, "Answer", frame.encode())
    resume = Frame.of("resume", Resume(run=RUN, round_index=0, attempt=1)).encode()
    assert "not awaited in round 1" in refused(served, line, "Split", resume)


def test_malformed_oversized_and_cut_messages(served: Served, line: Connection) -> None:
    whole = Frame.of(ANSWER, answer(), payload=b"x").encode()
    large = Frame.of(ANSWER, answer(), payload=bytes(1001)).encode()
    for pieces, problem in (
        ([whole[:-1]], "cut short"),
        ([whole, b"\0\0"], "more came after"),
        ([large], "1001 bytes; at most 1000"),
        ([b"\xff" * 40], "names a head of"),
        ([struct.pack(">I", 5) + b"[1,2]"], "not of this protocol"),
        ([Frame("answer", {"run": RUN}).encode()], "malformed at round_index"),
    ):
        assert problem in refused(served, line, "Answer", *pieces)
    bad = json.loads(answer().model_dump_json())
    frame = Frame(ANSWER, {**bad, "train_loss": None}, {"payload": b""})
    assert "malformed at train_loss" in refused(served, line, "Answer", frame.encode())


def test_one_message_is_at_most_a_piece(served: Served, line: Connection) -> None:
    with pytest.raises(RefusedError, match="larger than max"):
        line.unary("Join", bytes(2 * CHUNK))
    line.unary("Join", introduction(0))


def test_rows_cannot_change_between_two_joins(served: Served, line: Connection) -> None:
    def ready(rows: int) -> bytes:
        head = Ready(run=RUN, process=PROCESS, rows=rows, digest="0" * 32)
        return Frame.of(READY, head).encode()

    line.upload("Ready", [ready(5)])
    assert "joined again with other rows" in refused(served, line, "Ready", ready(6))


def test_a_newer_process_takes_over(served: Served, line: Connection) -> None:
    line.unary("Join", introduction(0, "12" * 8))
    head = Ready(run=RUN, process=PROCESS, rows=5, digest="0" * 32)
    assert "Another process of client 0" in refused(
        served, line, "Ready", Frame.of(READY, head).encode()
    )


def test_a_thousand_fuzzed_messages(served: Served, line: Connection) -> None:
    """Random bytes at every method: a refusal or a timeout, and the server answers afterwards."""
    draws = np.random.default_rng(14)
    whole = Frame.of(ANSWER, answer(), payload=b"x" * 50).encode()
    for number in range(1000):
        data = bytearray(whole if number % 2 else draws.bytes(int(draws.integers(1, 300))))
        for place in draws.integers(0, len(data), 4):
            data[place] = draws.integers(0, 256)
        method = ("Join", "Ready", "Answer", "Problem", "Received")[number % 5]
        with pytest.raises(RefusedError):
            if method in ("Ready", "Answer"):
                line.upload(method, [bytes(data)], 20.0)
            else:
                line.unary(method, bytes(data))
    assert read_frame([line.unary("Join", introduction(0))], {}).kind == "job"
    assert served.hub.open == {}


def test_a_sender_that_never_ends_holds_one_call(served: Served, line: Connection) -> None:
    """A slow message keeps its own client waiting, and no other."""
    let_go = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"\0\0"
        let_go.wait(20.0)

    ends: list[str] = []

    def send() -> None:
        with pytest.raises(RefusedError) as found:
            line.upload("Answer", slowly())
        ends.append(str(found.value))

    slow = threading.Thread(target=send, daemon=True)
    slow.start()
    # Until the slow message has begun, a second one is merely cut short.
    said = [refused(served, line, "Answer", b"\0\0") for _ in range(3)]
    assert "two messages at a time" in said[-1]
    other = served.dial(read_client_keys(served.keys / "client-1"))
    assert read_frame([other.unary("Join", introduction(1))], {}).kind == "job"
    other.close()
    let_go.set()
    slow.join(20.0)
    assert "cut short" in ends[0]


def test_plain_text_at_a_tls_port(served: Served) -> None:
    channel = grpc.insecure_channel(f"localhost:{served.port}")
    call = channel.unary_unary(f"/{SERVICE}/Join")
    with pytest.raises(grpc.RpcError) as found:
        call(introduction(0), timeout=10.0)
    assert found.value.code() == grpc.StatusCode.UNAVAILABLE
    channel.close()


def test_a_new_process_is_given_the_task_that_the_last_one_could_not_do(
    served: Served, line: Connection
) -> None:
    task = Task(run=RUN, round_index=0, attempt=1, client=0, plan={})
    served.hub.post({0: (task, Frame.of(TASK, task))})
    served.hub.problem(0, Problem(round_index=0, sentence="no memory"))
    stream = served.hub.stream_opened(0, PROCESS)
    assert served.hub.next_task(0, stream, 0.0) is None
    line.unary("Join", introduction(0, "12" * 8))
    stream = served.hub.stream_opened(0, "12" * 8)
    assert served.hub.next_task(0, stream, 0.0) is not None
