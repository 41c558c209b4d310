"""Certificates: what is in them, whom they name, and that independent verifiers accept them."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from airtune.deploy.certificates import (
    Peer,
    client_name,
    client_number,
    days_left,
    expiry_warning,
    hosts_of,
    issue_client,
    issue_server,
    load_certificate,
    make_authority,
    peer,
    serial_text,
)
from airtune.deploy.keys import read_bundle, read_client_keys, read_server_keys
from airtune.errors import InputError
from tests.deploy.conftest import HOST, validity


def _load(pem: bytes) -> x509.Certificate:
    return load_certificate(pem, "a certificate")


def test_independent_verifiers_accept_the_chain(made_keys: Path) -> None:
    server, client = (
        read_server_keys(made_keys / "server"),
        read_client_keys(made_keys / "client-0"),
    )
    policy = PolicyBuilder().store(Store([_load(server.ca_pem)])).max_chain_depth(0)
    leaf = _load(server.certificate_pem)
    names: list[x509.DNSName | x509.IPAddress] = [
        *(x509.DNSName(name) for name in ("localhost", HOST)),
        *(x509.IPAddress(ip_address(name)) for name in ("127.0.0.1", "::1", "10.0.0.7")),
    ]
    for name in names:
        assert policy.build_server_verifier(name).verify(leaf, [])
    assert policy.build_client_verifier().verify(_load(client.certificate_pem), [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("example.org")).verify(leaf, [])
    with pytest.raises(VerificationError):
        policy.build_client_verifier().verify(leaf, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("client-0")).verify(
            _load(client.certificate_pem), []
        )


def test_keys_signatures_and_extensions(made_keys: Path) -> None:
    authority = _load((made_keys / "ca" / "ca.pem").read_bytes())
    client = _load(read_client_keys(made_keys / "client-1").certificate_pem)
    for certificate in (authority, client):
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp384r1"
        assert certificate.signature_hash_algorithm is not None
        assert certificate.signature_hash_algorithm.name == "sha384"
        assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=4)
        assert len(f"{certificate.serial_number:X}") == 40
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature
    assert not client.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    kinds = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(kinds) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_client_cannot_sign_for_others(made_keys: Path) -> None:
    """A certificate below a client's is refused by the chain's length and its kind."""
    rogue = issue_client(read_bundle(made_keys / "client-0" / "client.pem"), 1, 30)
    client = _load(read_client_keys(made_keys / "client-0").certificate_pem)
    store = Store([_load((made_keys / "ca" / "ca.pem").read_bytes())])
    verifier = PolicyBuilder().store(store).build_client_verifier()
    with pytest.raises(VerificationError):
        verifier.verify(rogue.certificate, [client])


def test_a_certificate_ends_with_its_authority_at_the_latest() -> None:
    authority = make_authority(30)
    end = authority.certificate.not_valid_after_utc
    assert issue_client(authority, 0, 30).certificate.not_valid_after_utc <= end
    for days in (0, -1, 31):
        with pytest.raises(InputError, match=r"--days is -?\d+, but it must be from 1 to 30"):
            issue_client(authority, 0, days)
    with validity(-9, -2):
        old = make_authority(7)
    with pytest.raises(InputError, match=r"the authority's certificate is expired since 20"):
        issue_client(old, 0, 1)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "https://fl.example.org",
        "fl.example.org:9000",
        "a b",
        "*.example.org",
        "-a.org",
        "a..org",
        "10.0.0.300",
        "10.0.0",
        "fe80::1%eth0",
        "é.org",
        "a" * 64,
        ".".join(["a" * 60] * 5),
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=r"^--host is"):
        issue_server(make_authority(2), [host], 1)


def test_a_host_once(made_keys: Path) -> None:
    names = ["FL.example.org", "fl.example.org", "0:0:0:0:0:0:0:1", "2001:db8::7", "fl_server"]
    pair = issue_server(make_authority(2), names, 1)
    known = ["localhost", "127.0.0.1", "::1"]
    assert hosts_of(pair.certificate) == [*known, "fl.example.org", "2001:db8::7", "fl_server"]


@given(client=st.integers(min_value=0, max_value=999_999_999))
def test_a_client_s_name_is_its_number(client: int) -> None:
    assert client_number(client_name(client), "name") == client


@given(name=st.one_of(st.text(), st.from_regex(r"client-.{0,4}", fullmatch=True)))
def test_any_other_name_is_refused(name: str) -> None:
    try:
        client = client_number(name, "name")
    except InputError:
        assert name not in [client_name(k) for k in range(100)]
    else:
        assert name == client_name(client)


def test_the_peer_of_a_certificate(made_keys: Path) -> None:
    keys = read_client_keys(made_keys / "client-1")
    serial = _load(keys.certificate_pem).serial_number
    assert peer(keys.certificate_pem) == Peer(1, serial, keys.not_after)
    with pytest.raises(InputError, match=r"client presented is a certificate of a server, but"):
        peer(read_server_keys(made_keys / "server").certificate_pem)
    with pytest.raises(InputError, match=r"client presented is unreadable"):
        peer(b"nonsense")


def test_a_peer_of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airtune.deploy.certificates.client_name", lambda client: "admin")
    pair = issue_client(make_authority(2), 0, 1)
    with pytest.raises(InputError, match=r"name in the client's certificate is admin, but"):
        peer(pair.certificate_pem)


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (24 * 31, None),
        (24 * 30 + 1, None),
        (24 * 30 - 1, "expires in 29 days"),
        (25, "expires in 1 day "),
        (5, "expires today"),
        (-5, "has expired"),
    ],
)
def test_a_warning_before_the_end(hours: int, words: str | None) -> None:
    sentence = expiry_warning("client-3", datetime.now(UTC) + timedelta(hours=hours))
    if words is None:
        assert sentence is None
    else:
        assert sentence is not None
        assert f"The certificate of client-3 {words}" in sentence
        assert "--renew client-3" in sentence


def test_days_and_serial_numbers() -> None:
    assert days_left(datetime.now(UTC) + timedelta(days=3, hours=1)) == 3
    assert days_left(datetime.now(UTC) - timedelta(hours=1)) == -1
    assert serial_text(0xAB) == "0" * 38 + "AB"
