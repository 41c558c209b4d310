"""X.509 certificates of a deployment: one authority, one server, numbered clients.

Keys are EC P-384, signatures ECDSA with SHA-384. The name of a certificate is its common name:
`server`, or `client-3` for client 3 (counted from 0).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from airtune.errors import InputError, foreign_input

AUTHORITY = "ca"
SERVER = "server"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names that every server certificate has."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far back a validity begins, for machines whose clocks are behind."""
WARNING_DAYS = 30
"""A certificate that expires in fewer days than this gives a warning."""
SERIAL_DIGITS = 40
"""Hexadecimal digits of a serial number: the 20 octets that RFC 5280, 4.1.2.2, allows."""

_CLIENT = re.compile(r"client-(0|[1-9][0-9]{0,8})")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKeyTypes

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as PKCS8 in PEM, not encrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Peer:
    """The client that a certificate names."""

    client: int
    serial: int
    not_after: datetime


def client_name(client: int) -> str:
    """The name of a client's certificate and folder.

    >>> client_name(3)
    'client-3'
    """
    return f"client-{client}"


def client_number(name: str, field: str) -> int:
    """The client that a name `client-N` stands for. Raises InputError, naming `field`."""
    found = _CLIENT.fullmatch(name)
    if found is None:
        raise InputError(field, name, "client-N with the number N of a client, counted from 0")
    return int(found[1])


def serial_text(serial: int) -> str:
    """A serial number as in `revoked.txt`: 40 hexadecimal digits.

    >>> serial_text(255)[-4:]
    '00FF'
    """
    return f"{serial:0{SERIAL_DIGITS}X}"


def make_authority(days: int) -> KeyPair:
    """A new certificate authority, which signs certificates of servers and clients alone."""
    key = ec.generate_private_key(ec.SECP384R1())
    # A part drawn at random, so that two authorities can be told apart by their names.
    name = _name(f"airtune deployment {serial_text(x509.random_serial_number())[-8:]}")
    builder = _begun(name, key.public_key(), name, key.public_key(), _end(days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return KeyPair(builder.sign(key, hashes.SHA384()), key)


def issue_server(authority: KeyPair, hosts: Sequence[str], days: int) -> KeyPair:
    """A server's certificate for host names and IP addresses, and for those of the loopback.

    Raises InputError for what is no host name, and for more days than the authority lasts.
    """
    names = dict.fromkeys(_general_name(host) for host in (*LOOPBACK, *hosts))
    return _issue(authority, SERVER, list(names), days)


def issue_client(authority: KeyPair, client: int, days: int) -> KeyPair:
    """A client's certificate. Raises InputError for more days than the authority lasts."""
    name = client_name(client)
    return _issue(authority, name, [x509.DNSName(name)], days)


def require_days(authority: x509.Certificate, days: int) -> None:
    """InputError where a certificate would outlive its authority."""
    # Days are counted up: the whole life of the authority is allowed on its first day.
    left = -((datetime.now(UTC) - authority.not_valid_after_utc) // timedelta(days=1))
    if left < 1:
        raise InputError(
            "the authority's certificate",
            f"expired since {day(authority.not_valid_after_utc)}",
            "valid",
            "make new keys in another folder",
        )
    if not 1 <= days <= left:
        raise InputError(
            "--days",
            days,
            f"from 1 to {left}, as long as the authority lasts",
            "give a number in between, or make new keys in another folder",
        )


def _issue(
    authority: KeyPair, name: str, alternatives: list[x509.GeneralName], days: int
) -> KeyPair:
    require_days(authority.certificate, days)
    key = ec.generate_private_key(ec.SECP384R1())
    signer = authority.key
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise InputError("the authority's key", type(signer).__name__, "an EC key")
    issuer = authority.certificate.subject
    last = min(_end(days), authority.certificate.not_valid_after_utc)
    builder = _begun(_name(name), key.public_key(), issuer, signer.public_key(), last)
    usage = _usage_of(name)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([usage]), False),
        (x509.SubjectAlternativeName(alternatives), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return KeyPair(builder.sign(signer, hashes.SHA384()), key)


def _begun(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePublicKey,
    not_after: datetime,
) -> x509.CertificateBuilder:
    """What every certificate has: names, key, serial number, validity, key identifiers."""
    # The highest of the random bits is set, so that every serial number has all its digits.
    serial = x509.random_serial_number() | 1 << 158
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(datetime.now(UTC).replace(microsecond=0) - CLOCK_SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _end(days: int) -> datetime:
    """The end of a validity of some days from now; certificates hold whole seconds."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _usage_of(name: str) -> x509.ObjectIdentifier:
    is_server = name == SERVER
    return ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH


def _general_name(host: str) -> x509.GeneralName:
    """An IP address, or a host name of letters, digits and hyphens."""
    try:
        address = ip_address(host)
    except ValueError:
        labels = host.lower().split(".")
        # A name that ends in a number is a mistyped address.
        fits = all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
        if not fits or len(host) > 253:
            raise InputError(
                "--host",
                host,
                "a host name or an IP address",
                "give it as clients will connect to it, without protocol and port",
            ) from None
        return x509.DNSName(host.lower())
    if "%" in host:
        raise InputError("--host", host, "an IP address without a zone")
    return x509.IPAddress(address)


def check_hosts(hosts: Sequence[str]) -> list[str]:
    """The names as a certificate has them. Raises InputError for what is no host name."""
    return [str(_general_name(host).value) for host in hosts]


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Host names and IP addresses that a certificate is valid for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def name_of(certificate: x509.Certificate, field: str) -> str:
    """The common name. Raises InputError, naming `field`, where there is none or more than one."""
    names = [
        str(attribute.value)
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    if len(names) != 1:
        raise InputError(field, f"for {len(names)} common names", "for one common name")
    return names[0]


def require_kind(certificate: x509.Certificate, field: str, *, server: bool) -> None:
    """InputError, naming `field`, for a client's certificate in place of a server's or reverse."""
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    kinds = [f"a certificate of a {'server' if own else 'client'}" for own in (server, not server)]
    try:
        usages = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = []
    if wanted not in usages:
        raise InputError(field, kinds[1] if usages else "one of neither kind", kinds[0])


def load_certificate(pem: bytes, field: str) -> x509.Certificate:
    """A certificate from PEM. Raises InputError, naming `field`, for anything else."""
    with foreign_input(field, "unreadable", "a certificate in PEM"):
        certificate = x509.load_pem_x509_certificate(pem)
        # Extensions are parsed when they are first read: here, where a mistake has a name.
        _ = certificate.extensions
        return certificate


def peer(certificate_pem: bytes) -> Peer:
    """The client that a certificate belongs to, which TLS has verified before.

    Raises InputError for a name that is no `client-N`, and for a server's certificate.
    """
    field = "the certificate that a client presented"
    certificate = load_certificate(certificate_pem, field)
    require_kind(certificate, field, server=False)
    client = client_number(name_of(certificate, field), "the name in the client's certificate")
    return Peer(client, certificate.serial_number, certificate.not_valid_after_utc)


def days_left(not_after: datetime) -> int:
    """Whole days until a certificate expires; negative once it has."""
    return (not_after - datetime.now(UTC)) // timedelta(days=1)


def day(moment: datetime) -> str:
    """A moment's date, as in every sentence about certificates."""
    return f"{moment:%Y-%m-%d}"


def expiry_warning(name: str, not_after: datetime) -> str | None:
    """A sentence where a certificate has fewer than `WARNING_DAYS` days left, else None."""
    left = days_left(not_after)
    if left >= WARNING_DAYS:
        return None
    when = f"expires in {left} day{'s' * (left > 1)}" if left >= 1 else "expires today"
    when = "has expired" if left < 0 else when
    if name == AUTHORITY:
        return (
            f"The authority's certificate {when} ({day(not_after)}): make keys with `airtune "
            "deploy keys` in another folder, and distribute them all."
        )
    return (
        f"The certificate of {name} {when} ({day(not_after)}): renew it with "
        f"`airtune deploy keys DIR --renew {name}` where its authority is, and copy the new file "
        "to the machine that uses it."
    )
