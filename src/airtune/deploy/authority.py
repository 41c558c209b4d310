"""The certificate authority of a deployment, as files in the folder of all keys.

`ca/` holds its certificate `ca.pem`, its private key `ca.key`, and in `issued/` the certificates
that it signed (`client-3.1.pem` is the first of client 3). `server/` and `client-0/`, `client-1/`,
… are what one machine each is given (`keys.py`).
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from airtune.deploy.certificates import (
    AUTHORITY,
    SERVER,
    KeyPair,
    client_number,
    issue_client,
    issue_server,
    load_certificate,
    name_of,
)
from airtune.deploy.keys import (
    AUTHORITY_FILE,
    CLIENT_FILE,
    REVOKED_FILE,
    SERVER_FILE,
    matched,
    read_bundle,
    read_file,
    read_private,
    was_issued_by,
)
from airtune.errors import AirtuneError, InputError
from airtune.files import write_bytes_atomic

AUTHORITY_KEY = "ca.key"
ISSUED = "issued"
_NAME = r"server|client-(?:0|[1-9][0-9]{0,8})"
_ISSUED_FILE = re.compile(rf"({_NAME})\.([1-9][0-9]*)\.pem")
_PARTIAL = ".partial"
_REVOKED_HEADER = (
    b"# Serial numbers of revoked certificates, one a line; # begins a comment.\n"
    b"# The server reads this file again whenever it changes.\n"
)


class Authority:
    """An authority with its record of what it signed. Use it within `locked`."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError that names what is missing, or does not belong together."""
        self.folder = folder
        place = folder / AUTHORITY
        self._pem = read_file(place / AUTHORITY_FILE)
        key = read_private(place / AUTHORITY_KEY)
        self._pair = matched(key, self._pem, place / AUTHORITY_KEY)
        self._issued = _read_issued(place / ISSUED)
        self._complete_record()

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._pair.certificate

    def names(self) -> list[str]:
        """Who has a certificate: the server first, then clients by number."""
        return sorted(self._issued, key=lambda name: -1 if name == SERVER else _number(name))

    def certificates(self, name: str) -> Mapping[int, x509.Certificate]:
        """All certificates of a name, by their number from 1; the last is in use."""
        return dict(sorted(self._issued.get(name, {}).items()))

    def issue(self, name: str, hosts: Sequence[str], days: int) -> None:
        """A new key and certificate in the folder of a name, in place of those that are there."""
        if name == SERVER:
            pair = issue_server(self._pair, hosts, days)
        else:
            pair = issue_client(self._pair, _number(name), days)
        place, file = self.folder / name, _file_of(name)
        bundle = pair.key_pem + pair.certificate_pem
        if place.exists():
            write_bytes_atomic(place / file, bundle, private=True)
        else:
            files = {AUTHORITY_FILE: self._pem, file: bundle}
            files |= {REVOKED_FILE: _REVOKED_HEADER} if name == SERVER else {}
            _place_folder(place, files, {file})
        self._record(name, pair.certificate)

    def _record(self, name: str, certificate: x509.Certificate) -> None:
        known = self._issued.setdefault(name, {})
        number = max(known, default=0) + 1
        path = self.folder / AUTHORITY / ISSUED / f"{name}.{number}.pem"
        write_bytes_atomic(path, certificate.public_bytes(Encoding.PEM))
        known[number] = certificate

    def _complete_record(self) -> None:
        """Record what an interrupted process placed and could not record any more."""
        for place in sorted(self.folder.iterdir()):
            if re.fullmatch(_NAME, place.name) is None:
                continue
            path = place / _file_of(place.name)
            if not path.exists():
                if place.name not in self._issued:
                    raise InputError(
                        str(place), f"without {path.name}", "a folder of keys", "move it away"
                    )
                continue
            certificate = read_bundle(path).certificate
            found = name_of(certificate, str(path))
            if found != place.name or not was_issued_by(certificate, self.certificate):
                raise InputError(
                    str(path), f"for {found!r}", f"this authority's certificate for {place.name!r}"
                )
            if certificate not in self._issued.get(place.name, {}).values():
                self._record(place.name, certificate)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder of keys; what a killed one left half-made is removed."""
    if not folder.is_dir():
        raise InputError(
            "DIR", str(folder), "a folder of keys", "make it: airtune deploy keys DIR --clients N"
        )
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AirtuneError(
                f"{folder} is in use by another airtune process: wait for it, or end it."
            ) from None
        for left in [*folder.rglob(f".*{_PARTIAL}")]:
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def place_authority(folder: Path, pair: KeyPair) -> None:
    """Write a new authority into a folder of keys."""
    files = {AUTHORITY_FILE: pair.certificate_pem, AUTHORITY_KEY: pair.key_pem}
    _place_folder(folder / AUTHORITY, files, {AUTHORITY_KEY}, [ISSUED])


def _place_folder(
    place: Path, files: Mapping[str, bytes], private: Set[str], folders: Sequence[str] = ()
) -> None:
    """A new folder with files, whole or not at all, for its owner alone."""
    partial = place.with_name(f".{place.name}{_PARTIAL}")
    partial.mkdir(mode=0o700)
    for name in folders:
        (partial / name).mkdir(mode=0o700)
    for name, data in files.items():
        write_bytes_atomic(partial / name, data, private=name in private)
    partial.rename(place)


def _read_issued(folder: Path) -> dict[str, dict[int, x509.Certificate]]:
    if not folder.is_dir():
        raise InputError(
            "the record of certificates", f"{folder}, which is missing", "a folder", "put it back"
        )
    issued: dict[str, dict[int, x509.Certificate]] = {}
    for path in folder.iterdir():
        found = _ISSUED_FILE.fullmatch(path.name)
        if found is not None:
            certificate = load_certificate(read_file(path), str(path))
            issued.setdefault(found[1], {})[int(found[2])] = certificate
    return issued


def _file_of(name: str) -> str:
    return SERVER_FILE if name == SERVER else CLIENT_FILE


def _number(name: str) -> int:
    return client_number(name, "the name")
