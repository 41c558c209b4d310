"""A client's calls to its server: dialling, trying again, and errors as one sentence."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import grpc

from airtune.deploy.hub import Say
from airtune.deploy.keys import ClientKeys
from airtune.deploy.service import CLIENT_KEY, KEEPALIVE_MS, SERVICE
from airtune.deploy.wire import CHUNK
from airtune.errors import AirtuneError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
CALL_S = 60.0
"""A short call that takes longer is tried again."""
OPTIONS = (
    ("grpc.max_receive_message_length", CHUNK + 1024),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3000),
)
_FINAL = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "Hostname Verification")


class RefusedError(AirtuneError):
    """The server has refused this client, and would again."""


class UnreachableError(AirtuneError):
    """The connection broke or was never there; it is worth trying again."""


@final
class Connection:
    """The channel of one client. `say` takes a sentence when the server is away, and back."""

    def __init__(self, server: str, client: int, keys: ClientKeys | None, say: Say) -> None:
        self.server, self.client, self._say = server, client, say
        self._metadata = ((CLIENT_KEY, str(client)),)
        if keys is None:
            self._channel = grpc.insecure_channel(server, options=OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(
                keys.ca_pem, keys.key_pem, keys.certificate_pem
            )
            self._channel = grpc.secure_channel(server, credentials, options=OPTIONS)

    def unary(self, method: str, request: bytes) -> bytes:
        """A short call."""
        call = self._channel.unary_unary(f"/{SERVICE}/{method}")
        return self._asked(lambda: call(request, timeout=CALL_S, metadata=self._metadata))

    def upload(self, method: str, pieces: Iterable[bytes], limit_s: float | None = None) -> bytes:
        """A long message up; the answer to it."""
        call = self._channel.stream_unary(f"/{SERVICE}/{method}")
        return self._asked(lambda: call(iter(pieces), timeout=limit_s, metadata=self._metadata))

    def download(self, method: str, request: bytes) -> Iterator[bytes]:
        """Pieces from the server as they come."""
        call = self._channel.unary_stream(f"/{SERVICE}/{method}")
        yield from self._pieces(lambda: call(request, metadata=self._metadata))

    def both(self, method: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pieces both ways."""
        call = self._channel.stream_stream(f"/{SERVICE}/{method}")
        yield from self._pieces(lambda: call(pieces, metadata=self._metadata))

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _asked(self, call: Callable[[], Any]) -> bytes:
        try:
            return bytes(call())
        except grpc.RpcError as error:
            raise self._sentence(error) from None

    def _pieces(self, call: Callable[[], Any]) -> Iterator[bytes]:
        try:
            yield from call()
        except grpc.RpcError as error:
            raise self._sentence(error) from None

    def _sentence(self, error: Any) -> AirtuneError:
        code, details = error.code(), " ".join(str(error.details()).split())
        if code in _FINAL:
            return RefusedError(f"The server at {self.server} refused this client: {details}")
        if any(sign in details for sign in _UNTRUSTED):
            return RefusedError(
                f"The server at {self.server} does not show a certificate of this client's "
                f"authority ({details[-120:]}): check the address, and that both folders of keys "
                "are of one authority."
            )
        # gRPC puts the reason last, behind what it tried.
        reason = details.rpartition(": ")[2][:200] or "no reason given"
        return UnreachableError(f"The server at {self.server} cannot be reached ({reason}).")


@final
class Retries:
    """Pauses between tries, up to `wait_s` without success in all."""

    def __init__(self, wait_s: float, say: Say) -> None:
        self._wait_s, self._say = wait_s, say
        self._pause_s = FIRST_PAUSE_S
        self._since: float | None = None

    def succeeded(self) -> None:
        """The server answers."""
        if self._since is not None:
            self._say("The server answers again.")
        self._since, self._pause_s = None, FIRST_PAUSE_S

    def failed(self, error: AirtuneError) -> None:
        """Wait before the next try; raises the error once `wait_s` are over."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._say(f"{error} Trying again for {self._wait_s:g} s.")
        if now - self._since > self._wait_s:
            raise error
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
