"""The gRPC service of a server: one port for joining, tasks, answers and split steps.

Handlers check who speaks by the certificate, turn bytes into checked messages, and hand them to the
`Hub`. What is not of the protocol is refused with one sentence, on both sides.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, final

import grpc

from airtune.deploy.certificates import peer
from airtune.deploy.facts import LABELS, LENGTHS
from airtune.deploy.hub import Hub
from airtune.deploy.keys import Revoked, ServerKeys
from airtune.deploy.messages import (
    ANSWER,
    DONE,
    JOB,
    JOIN,
    MOST_ROWS,
    PROBE,
    PROBLEM,
    READY,
    TAKEN,
    WELCOME,
    Answer,
    Done,
    Join,
    Probe,
    Problem,
    Ready,
    Resume,
    Taken,
)
from airtune.deploy.pipe import Pipe
from airtune.deploy.wire import CHUNK, Frame, FrameReader, WireError, chunked, read_frame
from airtune.errors import AirtuneError, InputError

SERVICE = "airtune.Deploy"
CLIENT_KEY = "airtune-client"
"""Metadata with a client's number where there is no certificate."""
KEEPALIVE_MS = 15_000
"""A connection without traffic is probed so often; a dead one is noticed after twice that."""
LOOKS_EVERY_S = 2.0
MOST_PROBE = 1 << 24
"""Bytes of one probe."""
OPTIONS = (
    ("grpc.max_receive_message_length", CHUNK + 1024),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.so_reuseport", 0),
)


class Identity(Protocol):
    """Who speaks: the client's number, or PermissionError with a sentence."""

    def __call__(self, context: Any) -> int: ...


def by_certificate(revoked: Revoked) -> Identity:
    """The number in the client's certificate, unless it is revoked."""

    def identify(context: Any) -> int:
        pem = context.auth_context().get("x509_pem_cert", [b""])[0]
        try:
            who = peer(pem)
        except InputError as error:
            raise PermissionError(str(error)) from None
        if revoked.check(who.serial):
            raise PermissionError(
                f"The certificate of client {who.client} is revoked: renew it and copy its folder."
            )
        return who.client

    return identify


def by_metadata(context: Any) -> int:
    """The number that the client states: only where both run on one machine."""
    values = dict(context.invocation_metadata())
    number = str(values.get(CLIENT_KEY, ""))
    if not number.isdecimal() or len(number) > 9:
        raise PermissionError("The client does not state its number.")
    return int(number)


@final
class Service:
    """The handlers of one server."""

    def __init__(self, hub: Hub, identify: Identity) -> None:
        self._hub, self._identify = hub, identify
        self._answering = [threading.Lock() for _ in range(hub.clients)]

    def join(self, request: bytes, context: Any) -> bytes:
        """Introduce a process; the job, once the server has it."""
        with self._speaking(context) as client:
            head = read_frame([request], {}).read(JOIN, Join)
            if head.client != client:
                raise PermissionError(
                    f"Client {head.client} joined with the certificate of client {client}."
                )
            self._hub.admit(client, head.process)
            job = self._hub.job
            if job is None:
                return Frame.of(TAKEN, Taken(sentence="the server is loading")).encode()
            return Frame.of(JOB, job).encode()
        raise AssertionError("aborted")

    def ready(self, pieces: Iterable[bytes], context: Any) -> bytes:
        """Facts of a client's rows."""
        with self._speaking(context) as client, self._one_at_a_time(client):
            frame = read_frame(pieces, {LENGTHS: 4 * MOST_ROWS, LABELS: 4 * MOST_ROWS})
            head = frame.read(READY, Ready)
            self._of_this_run(head.run)
            self._hub.report(client, head, frame.parts)
            return Frame.of(WELCOME, Taken()).encode()
        raise AssertionError("aborted")

    def work(self, request: bytes, context: Any) -> Iterator[bytes]:
        """The client's tasks as they come, until the run ends."""
        with self._speaking(context) as client:
            head = read_frame([request], {}).read(JOIN, Join)
            stream = self._hub.stream_opened(client, head.process)
            # The generator may be dropped without being closed when a connection breaks.
            if not context.add_callback(lambda: self._hub.stream_closed(client, stream)):
                self._hub.stream_closed(client, stream)
            while context.is_active():
                frame = self._hub.next_task(client, stream, LOOKS_EVERY_S)
                if frame is not None:
                    yield from frame.chunks()
                elif self._hub.ended is not None:
                    yield Frame.of(DONE, Done(sentence=self._hub.ended)).encode()
                    return

    def probe_up(self, pieces: Iterable[bytes], context: Any) -> bytes:
        """Bytes from a client, and the seconds from the first piece to the last."""
        with self._speaking(context):
            count, began, last = 0, 0.0, 0.0
            for piece in pieces:
                last = time.monotonic()
                began = began or last
                count += len(piece)
                if count > MOST_PROBE:
                    raise WireError(f"A probe has more than {MOST_PROBE} bytes.")
            head = Probe(bytes=max(count, 1), seconds=last - began)
            return Frame.of(PROBE, head).encode()
        raise AssertionError("aborted")

    def probe_turn(self, request: bytes, context: Any) -> bytes:
        """A client's turn to probe; an empty sentence once it has it."""
        with self._speaking(context) as client:
            has_it = self._hub.probe_turn(client, LOOKS_EVERY_S)
            return Frame.of(TAKEN, Taken(sentence="" if has_it else "another probes")).encode()
        raise AssertionError("aborted")

    def probe_down(self, request: bytes, context: Any) -> Iterator[bytes]:
        """As many bytes as a client asks for."""
        with self._speaking(context):
            head = read_frame([request], {}).read(PROBE, Probe)
            yield from chunked(bytes(head.bytes))

    def received(self, request: bytes, context: Any) -> bytes:
        """A client has all of its task."""
        with self._speaking(context) as client:
            head = read_frame([request], {}).read("received", Resume)
            self._of_this_run(head.run)
            self._hub.received(client, head.round_index, head.at_s)
            return Frame.of(TAKEN, Taken()).encode()
        raise AssertionError("aborted")

    def answer(self, pieces: Iterable[bytes], context: Any) -> bytes:
        """A client's update."""
        with self._speaking(context) as client, self._one_at_a_time(client):
            frame = read_frame(pieces, self._hub.limits)
            head = frame.read(ANSWER, Answer)
            self._of_this_run(head.run)
            if head.client != client:
                raise PermissionError(f"Client {client} answered as client {head.client}.")
            said = self._hub.answer(client, head, frame.parts.get("payload", b""))
            return Frame.of(TAKEN, Taken(sentence=said)).encode()
        raise AssertionError("aborted")

    def problem(self, request: bytes, context: Any) -> bytes:
        """Why a client cannot go on."""
        with self._speaking(context) as client:
            head = read_frame([request], {}).read(PROBLEM, Problem)
            self._hub.say(f"Client {client}: {head.sentence}")
            self._hub.problem(client, head)
            return Frame.of(TAKEN, Taken()).encode()
        raise AssertionError("aborted")

    def split(self, pieces: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The messages of a split client's local steps, both ways."""
        with self._speaking(context) as client:
            reader = FrameReader(self._hub.limits)
            first = next(frames(pieces, reader), None)
            if first is None:
                raise WireError("A stream of split steps ended before it began.")
            head = first.read("resume", Resume)
            self._of_this_run(head.run)
            pipe = self._hub.pipe(client, head.round_index, head.attempt)
            yield from conversation(pipe, pieces, reader, head.received, head, context)

    def _of_this_run(self, run: str) -> None:
        if run != self._hub.run:
            raise WireError("The message is of another run: start the client again.")

    @contextmanager
    def _one_at_a_time(self, client: int) -> Iterator[None]:
        """A client sends one long message at a time, so that its memory here is bounded."""
        if not 0 <= client < len(self._answering):
            raise WireError(f"Client {client} is not of this run.")
        if not self._answering[client].acquire(timeout=LOOKS_EVERY_S):
            raise WireError(f"Client {client} sends two messages at a time.")
        try:
            yield
        finally:
            self._answering[client].release()

    @contextmanager
    def _speaking(self, context: Any) -> Iterator[int]:
        """Who speaks; what is refused ends the call with one sentence, said here, too."""
        client: int | None = None
        try:
            client = self._identify(context)
            yield client
        except PermissionError as error:
            self._refuse(context, grpc.StatusCode.PERMISSION_DENIED, str(error), client)
        except WireError as error:
            self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error), client)
        except AirtuneError as error:
            self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error), client)

    def _refuse(self, context: Any, code: Any, sentence: str, client: int | None) -> None:
        who = f"client {client}" if client is not None else "a peer"
        self._hub.say(f"Refused {who} at {context.peer()}: {sentence}")
        context.abort(code, sentence)


def frames(pieces: Iterable[bytes], reader: FrameReader) -> Iterator[Frame]:
    """The frames of a stream, as they are complete."""
    for piece in pieces:
        yield from reader.feed(piece)


def conversation(
    pipe: Pipe,
    pieces: Iterator[bytes],
    reader: FrameReader,
    start: int,
    resume: Resume,
    context: Any,
) -> Iterator[bytes]:
    """What goes out on one connection of a pipe, while another thread takes what comes in.

    `start` is how many messages the other side has. The server states first how many it has.
    """
    connection = pipe.connect()
    wrong: list[AirtuneError] = []

    def take() -> None:
        try:
            for frame in frames(pieces, reader):
                pipe.deliver(int(frame.head.get("number", -1)), frame)
        except AirtuneError as error:
            wrong.append(error)
        except Exception:  # the connection broke, which the sender notices as well
            return

    own = resume.model_copy(update={"received": pipe.received})
    yield from chunked(Frame.of("resume", own).encode())
    threading.Thread(target=take, daemon=True, name="split messages").start()
    for message in pipe.outgoing(connection, start):
        if wrong:
            raise wrong[0]
        if not context.is_active():
            return
        if message is not None:
            number, frame = message
            numbered = Frame(frame.kind, {**frame.head, "number": number}, frame.parts)
            yield from numbered.chunks()


def _handlers(service: Service) -> grpc.GenericRpcHandler:
    kinds: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "Join": (grpc.unary_unary_rpc_method_handler, service.join),
        "Ready": (grpc.stream_unary_rpc_method_handler, service.ready),
        "Work": (grpc.unary_stream_rpc_method_handler, service.work),
        "ProbeTurn": (grpc.unary_unary_rpc_method_handler, service.probe_turn),
        "ProbeUp": (grpc.stream_unary_rpc_method_handler, service.probe_up),
        "ProbeDown": (grpc.unary_stream_rpc_method_handler, service.probe_down),
        "Received": (grpc.unary_unary_rpc_method_handler, service.received),
        "Answer": (grpc.stream_unary_rpc_method_handler, service.answer),
        "Problem": (grpc.unary_unary_rpc_method_handler, service.problem),
        "Split": (grpc.stream_stream_rpc_method_handler, service.split),
    }
    return grpc.method_handlers_generic_handler(
        SERVICE, {name: make(handler) for name, (make, handler) in kinds.items()}
    )


def open_server(hub: Hub, listen: str, keys: ServerKeys | None) -> tuple[grpc.Server, int]:
    """A server that listens at `HOST:PORT` (port 0: any free one); its port.

    With `keys` both sides show certificates; without, on this machine alone. Raises AirtuneError
    where the address cannot be had.
    """
    identify = by_metadata if keys is None else by_certificate(Revoked(keys.revoked))
    # A client holds two threads while it works; the others are for those that join or are refused.
    pool = ThreadPoolExecutor(3 * hub.clients + 8, thread_name_prefix="deploy")
    server = grpc.server(pool, options=OPTIONS)
    server.add_generic_rpc_handlers((_handlers(Service(hub, identify)),))
    try:
        if keys is None:
            port = server.add_insecure_port(listen)
        else:
            credentials = grpc.ssl_server_credentials(
                [(keys.key_pem, keys.certificate_pem)], keys.ca_pem, require_client_auth=True
            )
            port = server.add_secure_port(listen, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        pool.shutdown(wait=False)
        raise InputError(
            "--listen", listen, "an address of this machine that is free", "choose another port"
        )
    server.start()
    return server, port
