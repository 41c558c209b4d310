"""Mutual TLS with these keys over a real gRPC connection: who is let in, and what others see."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from airtune.deploy.certificates import KeyPair, issue_client, peer
from airtune.deploy.issuing import make_keys, revoke
from airtune.deploy.keys import (
    ClientKeys,
    Revoked,
    ServerKeys,
    matched,
    read_bundle,
    read_client_keys,
    read_server_keys,
)
from tests.deploy.conftest import HOST, validity

METHOD = "/airtune.test/Who"
LIMIT_S = 20.0
"""What a call may take on a busy machine; a refusal comes within milliseconds."""


class Presented(NamedTuple):
    """What a client brings: whom it trusts, and its own key and certificate."""

    trusted: bytes | None
    key: bytes | None = None
    certificate: bytes | None = None


def _serve(keys: ServerKeys) -> tuple[grpc.Server, int]:
    revoked = Revoked(keys.revoked)

    def who(request: bytes, context: grpc.ServicerContext) -> bytes:
        (pem,) = context.auth_context()["x509_pem_cert"]
        caller = peer(pem)
        if revoked.check(caller.serial):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "revoked")
        return str(caller.client).encode()

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("airtune.test", {"Who": handler})]
    )
    credentials = grpc.ssl_server_credentials(
        [(keys.key_pem, keys.certificate_pem)], keys.ca_pem, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, port


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handshake") / "keys"
    make_keys(folder, 3, [HOST])
    revoke(folder, "client-2")
    return folder


@pytest.fixture(scope="module")
def port(keys: Path) -> Iterator[int]:
    server, port = _serve(read_server_keys(keys / "server"))
    yield port
    server.stop(None).wait(LIMIT_S)


def _call(port: int, presented: Presented | None, name: str = "localhost") -> bytes:
    """One call, expecting `name` in the server's certificate; None: without TLS."""
    options = [("grpc.ssl_target_name_override", name)] if presented else []
    address = f"127.0.0.1:{port}"
    if presented is None:
        channel = grpc.insecure_channel(address)
    else:
        credentials = grpc.ssl_channel_credentials(*presented)
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        answer: bytes = channel.unary_unary(METHOD)(b"", timeout=LIMIT_S)
    return answer


def _refusal(*arguments: Any, **options: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        _call(*arguments, **options)
    return caught.value.code()


def _own(keys: ClientKeys | ServerKeys) -> Presented:
    return Presented(keys.ca_pem, keys.key_pem, keys.certificate_pem)


def _authority(keys: Path) -> KeyPair:
    place = keys / "ca"
    return matched((place / "ca.key").read_bytes(), (place / "ca.pem").read_bytes(), place)


@pytest.mark.parametrize("client", [0, 1])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", HOST])
def test_a_client_is_known_by_its_certificate(
    keys: Path, port: int, client: int, name: str
) -> None:
    presented = _own(read_client_keys(keys / f"client-{client}"))
    assert _call(port, presented, name) == str(client).encode()


def test_a_revoked_client(keys: Path, port: int) -> None:
    """TLS accepts its certificate, the service does not."""
    refusal = _refusal(port, _own(read_client_keys(keys / "client-2")))
    assert refusal is grpc.StatusCode.PERMISSION_DENIED


def test_a_client_that_is_revoked_while_the_server_runs(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, 2)
    server, port = _serve(read_server_keys(folder / "server"))
    first, second = (_own(read_client_keys(folder / f"client-{k}")) for k in (0, 1))
    try:
        assert _call(port, first) == b"0"
        revoke(folder, "client-0")
        assert _refusal(port, first) is grpc.StatusCode.PERMISSION_DENIED
        assert _call(port, second) == b"1"
    finally:
        server.stop(None).wait(LIMIT_S)


def _of_another_authority(keys: Path, tmp_path: Path) -> Presented:
    make_keys(tmp_path / "other", 1)
    pair = read_bundle(tmp_path / "other" / "client-0" / "client.pem")
    return Presented((keys / "ca" / "ca.pem").read_bytes(), pair.key_pem, pair.certificate_pem)


def _expired(keys: Path, tmp_path: Path) -> Presented:
    authority = _authority(keys)
    with validity(-9, -2):
        pair = issue_client(authority, 0, 1)
    return Presented(authority.certificate_pem, pair.key_pem, pair.certificate_pem)


def _not_yet_valid(keys: Path, tmp_path: Path) -> Presented:
    authority = _authority(keys)
    with validity(2, 9):
        pair = issue_client(authority, 0, 1)
    return Presented(authority.certificate_pem, pair.key_pem, pair.certificate_pem)


def _the_server_s(keys: Path, tmp_path: Path) -> Presented:
    return _own(read_server_keys(keys / "server"))


def _signed_by_a_client(keys: Path, tmp_path: Path) -> Presented:
    """The chain is sent along, as a client would that made itself an authority."""
    signer = read_bundle(keys / "client-0" / "client.pem")
    pair = issue_client(signer, 1, 30)
    chain = pair.certificate_pem + signer.certificate_pem
    return Presented((keys / "ca" / "ca.pem").read_bytes(), pair.key_pem, chain)


def _none(keys: Path, tmp_path: Path) -> Presented:
    return Presented((keys / "ca" / "ca.pem").read_bytes())


def _trusting_another_authority(keys: Path, tmp_path: Path) -> Presented:
    make_keys(tmp_path / "other", 1)
    own = _own(read_client_keys(keys / "client-0"))
    return own._replace(trusted=(tmp_path / "other" / "ca" / "ca.pem").read_bytes())


def _trusting_the_web(keys: Path, tmp_path: Path) -> Presented:
    return _own(read_client_keys(keys / "client-0"))._replace(trusted=None)


@pytest.mark.parametrize(
    "made",
    [
        _of_another_authority,
        _expired,
        _not_yet_valid,
        _the_server_s,
        _signed_by_a_client,
        _none,
        _trusting_another_authority,
        _trusting_the_web,
    ],
    ids=lambda made: made.__name__.strip("_"),
)
def test_no_connection(keys: Path, port: int, tmp_path: Path, made: Any) -> None:
    assert _refusal(port, made(keys, tmp_path)) is grpc.StatusCode.UNAVAILABLE


def test_no_connection_without_tls(port: int) -> None:
    assert _refusal(port, None) is grpc.StatusCode.UNAVAILABLE


def test_no_connection_to_another_name(keys: Path, port: int) -> None:
    presented = _own(read_client_keys(keys / "client-0"))
    assert _refusal(port, presented, "other.example.org") is grpc.StatusCode.UNAVAILABLE


def test_a_client_cannot_be_the_server(keys: Path) -> None:
    """Another client refuses it, since its certificate is of the wrong kind."""
    thief = read_bundle(keys / "client-1" / "client.pem")
    own = read_server_keys(keys / "server")
    stolen = ServerKeys(
        own.ca_pem, thief.certificate_pem, thief.key_pem, own.revoked, own.not_after
    )
    server, port = _serve(stolen)
    try:
        presented = _own(read_client_keys(keys / "client-0"))
        assert _refusal(port, presented, "client-1") is grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop(None).wait(LIMIT_S)
