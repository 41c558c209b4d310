"""What one machine of a deployment is given: its key, its certificate and the authority's.

A server's folder holds `ca.pem`, `server.pem` and `revoked.txt`, a client's `ca.pem` and
`client.pem`. `server.pem` and `client.pem` hold the private key and its certificate in one file,
so that replacing the file replaces both at once.
"""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from airtune.deploy.certificates import (
    SERIAL_DIGITS,
    SERVER,
    KeyPair,
    client_number,
    day,
    load_certificate,
    name_of,
    require_kind,
)
from airtune.errors import AirtuneError, InputError, foreign_input

AUTHORITY_FILE = "ca.pem"
SERVER_FILE = "server.pem"
CLIENT_FILE = "client.pem"
REVOKED_FILE = "revoked.txt"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)
_SERIAL = re.compile(rf"[0-9A-Fa-f]{{{SERIAL_DIGITS}}}")


@dataclass(frozen=True)
class ServerKeys:
    """A server's keys, as gRPC takes them, and its list of revoked certificates."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes
    revoked: Path
    not_after: datetime


@dataclass(frozen=True)
class ClientKeys:
    """A client's keys, as gRPC takes them, and its number."""

    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes
    client: int
    not_after: datetime


def read_server_keys(folder: Path) -> ServerKeys:
    """The keys in a server's folder, checked.

    Raises InputError that names the file: missing, readable by others, expired or not yet valid,
    a key of another certificate, a certificate of another authority or of a client.
    """
    _require_role(folder, SERVER_FILE, CLIENT_FILE)
    authority, pair = _read_checked(folder, SERVER_FILE, SERVER)
    require_kind(pair.certificate, str(folder / SERVER_FILE), server=True)
    return ServerKeys(
        authority, pair.certificate_pem, pair.key_pem, folder / REVOKED_FILE, _end(pair)
    )


def read_client_keys(folder: Path) -> ClientKeys:
    """The keys in a client's folder, checked; raises InputError as `read_server_keys` does."""
    path = folder / CLIENT_FILE
    _require_role(folder, CLIENT_FILE, SERVER_FILE)
    authority, pair = _read_checked(folder, CLIENT_FILE, "client-N")
    require_kind(pair.certificate, str(path), server=False)
    client = client_number(name_of(pair.certificate, str(path)), f"the name in {path}")
    return ClientKeys(authority, pair.certificate_pem, pair.key_pem, client, _end(pair))


def _end(pair: KeyPair) -> datetime:
    return pair.certificate.not_valid_after_utc


def _require_role(folder: Path, wanted: str, other: str) -> None:
    """InputError where a folder is none, or is that of the other kind of machine."""
    if not folder.is_dir():
        raise InputError("the folder of keys", str(folder), "a folder", "check the path")
    if not (folder / wanted).exists() and (folder / other).exists():
        kinds = [name.removesuffix(".pem") for name in (other, wanted)]
        raise InputError(
            "the folder of keys", f"{folder}, which is a {kinds[0]}'s", f"a {kinds[1]}'s"
        )


def _read_checked(folder: Path, file: str, renewed: str) -> tuple[bytes, KeyPair]:
    """The authority's certificate as PEM, and a key with its certificate, today's and its own."""
    path, authority_path = folder / file, folder / AUTHORITY_FILE
    authority_pem = read_file(authority_path)
    authority = load_certificate(authority_pem, str(authority_path))
    pair = read_bundle(path)
    require_current(authority, authority_path, "make new keys in another folder")
    renewal = f"renew it where the authority is: airtune deploy keys DIR --renew {renewed}"
    require_current(pair.certificate, path, renewal)
    if not was_issued_by(pair.certificate, authority):
        raise InputError(
            str(path),
            f"not issued by {authority_path}",
            "a certificate of the same authority",
            "copy both files from one folder that `airtune deploy keys` made",
        )
    return authority_pem, pair


def was_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority's name and signature are on a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # another name, kind of key or signature: each has a class of its own
        return False
    return True


def require_current(certificate: x509.Certificate, path: Path, remedy: str) -> None:
    """InputError, naming the file, for a certificate that is expired or not yet valid."""
    now = datetime.now(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise InputError(str(path), f"expired since {day(last)}", "valid today", remedy)
    if now < first:
        raise InputError(
            str(path), f"not valid before {first:%Y-%m-%d %H:%M} UTC", "valid now", "set the clock"
        )


def read_bundle(path: Path) -> KeyPair:
    """A private key and its certificate from one file that others cannot read."""
    blocks: dict[bytes, list[bytes]] = {}
    for block in _BLOCK.finditer(read_private(path)):
        blocks.setdefault(block[1], []).append(block[0] + b"\n")
    keys = [pem for kind, found in blocks.items() if b"PRIVATE KEY" in kind for pem in found]
    certificates = blocks.get(b"CERTIFICATE", [])
    if len(keys) != 1 or len(certificates) != 1:
        raise InputError(
            str(path),
            f"a file with {len(keys)} keys and {len(certificates)} certificates",
            "one private key and its certificate in PEM",
            "copy the file once more",
        )
    return matched(keys[0], certificates[0], path)


def matched(key_pem: bytes, certificate_pem: bytes, path: Path) -> KeyPair:
    """A key with its certificate. Raises InputError, naming the file, where they do not match."""
    certificate = load_certificate(certificate_pem, f"the certificate in {path}")
    with foreign_input(f"the key in {path}", "unreadable", "a private key in PEM, not encrypted"):
        key = load_pem_private_key(key_pem, password=None)
    own, certified = (
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for public in (key.public_key(), certificate.public_key())
    )
    if own != certified:
        raise InputError(
            f"the key in {path}", "another certificate's", "that of the certificate beside it"
        )
    return KeyPair(certificate, key)


def read_private(path: Path) -> bytes:
    """A file with a private key. Raises InputError where other users may read or write it."""
    mode = 0
    try:
        with path.open("rb") as stream:
            # Of the file that is open: another one may take its place in the meantime.
            mode = os.fstat(stream.fileno()).st_mode & 0o777
            data = stream.read()
    except OSError as error:
        raise _unreadable(path, error) from None
    if mode & 0o077:
        raise InputError(
            str(path), f"open to others (mode {mode:04o})", "its owner's alone", f"chmod 600 {path}"
        )
    return data


def read_file(path: Path) -> bytes:
    """A file's bytes. Raises InputError that names it and the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    # The path is the field: a value is shortened where it is long.
    return InputError(
        str(path), f"unreadable ({error.strerror})", "a readable file", "check the folder"
    )


class Revoked:
    """Serial numbers of revoked certificates, from a file that may change at any time.

    A line is a serial number of 40 hexadecimal digits, or empty; `#` begins a comment. A serial
    number once read stays revoked as long as this object lives, so that a file that is being
    copied over in place opens no gap. Threads may share it.
    """

    def __init__(self, path: Path) -> None:
        """Raises AirtuneError where the file is missing, InputError for an unreadable line."""
        self.path = path
        self._data: bytes | None = None
        self._serials: frozenset[int] = frozenset()
        self._lock = Lock()
        self._read()

    def check(self, serial: int) -> bool:
        """Whether a serial number is revoked, in the file as it is now; raises as at the start."""
        self._read()
        return serial in self._serials

    def _read(self) -> None:
        # Read every time, since no time stamp shows every change; parsed only when it changed.
        with self._lock:
            data = read_revoked(self.path)
            if data != self._data:
                self._serials |= parse_revoked(data, self.path)
                self._data = data


def read_revoked(path: Path) -> bytes:
    """The bytes of a list of revoked certificates; a missing one is an error, never empty."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise AirtuneError(
            f"{path} cannot be read ({error.strerror}): without it no certificate is known to be "
            "revoked or not; copy it from the server's folder of keys."
        ) from None


def parse_revoked(data: bytes, path: Path) -> frozenset[int]:
    """The serial numbers in a list. Raises InputError that names the file and the line."""
    serials = set()
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        digits = line.partition("#")[0].strip().replace(":", "")
        if not digits:
            continue
        if _SERIAL.fullmatch(digits) is None:
            raise InputError(
                f"{path}, line {number},",
                line,
                f"a serial number of {SERIAL_DIGITS} hexadecimal digits",
                "`airtune deploy keys DIR --list` prints them",
            )
        serials.add(int(digits, 16))
    return frozenset(serials)
