"""Keys of a deployment: made, extended, renewed, revoked and listed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from airtune.deploy.authority import Authority, locked, place_authority
from airtune.deploy.certificates import (
    AUTHORITY,
    SERVER,
    check_hosts,
    client_name,
    day,
    hosts_of,
    make_authority,
    require_days,
    serial_text,
)
from airtune.deploy.keys import REVOKED_FILE, parse_revoked, read_revoked
from airtune.errors import InputError
from airtune.files import make_folder, write_text_atomic

AUTHORITY_DAYS = 3650
DAYS = 365
MOST_CLIENTS = 10_000
MOST_DAYS = 36_500


@dataclass(frozen=True)
class Made:
    """What a call made, and what was there before and was kept, by name."""

    made: list[str]
    kept: list[str]


@dataclass(frozen=True)
class Issued:
    """A certificate of the authority or signed by it; the newest of a name is in use."""

    name: str
    serial: int
    not_after: datetime
    in_use: bool
    revoked: bool

    @property
    def is_valid(self) -> bool:
        """Whether the server accepts it: neither expired nor revoked."""
        return not self.revoked and self.not_after > datetime.now(UTC)

    @property
    def revoked_line(self) -> str:
        """Its line in `revoked.txt`."""
        return f"{serial_text(self.serial)}  # {self.name}, {day(datetime.now(UTC))}"


def make_keys(
    folder: Path,
    clients: int,
    hosts: Sequence[str] = (),
    *,
    days: int = DAYS,
    authority_days: int = AUTHORITY_DAYS,
) -> Made:
    """Make what is missing: the authority, the server's keys, those of clients 0 to `clients - 1`.

    Nothing that exists is changed; a client whose folder was moved away counts as existing. `hosts`
    are the names and addresses that clients connect to. Validities are in days. Raises InputError
    for a folder that holds other things, and for values out of range.
    """
    if not 1 <= clients <= MOST_CLIENTS:
        raise InputError("--clients", clients, f"a number from 1 to {MOST_CLIENTS}")
    check_hosts(hosts)
    if not (folder / AUTHORITY).is_dir():
        _check_new(folder, days, authority_days)
        make_folder("DIR", folder)
    with locked(folder):
        is_new = not (folder / AUTHORITY).exists()
        if is_new:
            folder.chmod(0o700)
            place_authority(folder, make_authority(authority_days))
        authority = Authority(folder)
        kept = [name for name in authority.names() if not is_new]
        wanted = [SERVER, *map(client_name, range(clients))]
        missing = [name for name in wanted if name not in kept]
        if SERVER in kept:
            _refuse_other_hosts(authority, hosts)
        for name in missing:
            authority.issue(name, hosts, days)
    return Made([AUTHORITY] * is_new + missing, [AUTHORITY] * (not is_new) + kept)


def _check_new(folder: Path, days: int, authority_days: int) -> None:
    """Refuse what would leave a folder half-made, before anything is written."""
    if not 1 <= authority_days <= MOST_DAYS:
        raise InputError("--ca-days", authority_days, f"a number from 1 to {MOST_DAYS}")
    if not 1 <= days <= authority_days:
        raise InputError(
            "--days", days, f"from 1 to {authority_days}, as long as the authority lasts"
        )
    # An interrupted call leaves hidden folders alone, which the next one removes.
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(
            "DIR",
            str(folder),
            "a new or empty folder, or one of keys with its authority in ca/",
            "choose another one",
        )


def _refuse_other_hosts(authority: Authority, hosts: Sequence[str]) -> None:
    """InputError for names that the server's certificate, which is kept, does not have."""
    certificate = list(authority.certificates(SERVER).values())[-1]
    known = hosts_of(certificate)
    other = [host for host in check_hosts(hosts) if host not in known]
    if other:
        raise InputError(
            "--host",
            ", ".join(other),
            f"one of {', '.join(known)}, which the server's certificate has",
            "give all its names again: airtune deploy keys DIR --renew server --host NAME",
        )


def renew(folder: Path, name: str, hosts: Sequence[str] = (), *, days: int = DAYS) -> list[Issued]:
    """A new key and certificate for a name; the file of the old ones is replaced in one step.

    A server keeps its host names unless some are given. Returns the earlier certificates of the
    name that the server accepts still, until they expire or are revoked.
    """
    if hosts and name != SERVER:
        raise InputError("--host", ", ".join(hosts), "left out for a client's certificate")
    with locked(folder):
        authority = Authority(folder)
        _require_known(authority, "--renew", name)
        require_days(authority.certificate, days)
        if name == SERVER and not hosts:
            hosts = hosts_of(list(authority.certificates(name).values())[-1])
        authority.issue(name, hosts, days)
        earlier = [entry for entry in _listed(authority) if entry.name == name and not entry.in_use]
    return [entry for entry in earlier if entry.is_valid]


def revoke(folder: Path, name: str) -> list[Issued]:
    """Add a client's certificates to the server's list of revoked ones; returns those added.

    `name` is a client's, for all its certificates that are neither expired nor revoked, or the
    serial number of one. A certificate that is issued later is not revoked.
    """
    with locked(folder):
        authority = Authority(folder)
        entries = _listed(authority)
        found = [e for e in entries if name.upper() in (e.name.upper(), serial_text(e.serial))]
        if not found:
            _require_known(authority, "--revoke", name)
        if found[0].name == SERVER:
            raise InputError(
                "--revoke",
                name,
                "a client's name or serial number",
                "clients trust what the authority signed: after the loss of the server's key make "
                "all keys anew in another folder",
            )
        added = [entry for entry in found if entry.is_valid]
        path = folder / SERVER / REVOKED_FILE
        text = read_revoked(path).decode()
        text += "" if text.endswith("\n") or not text else "\n"
        if added:
            lines = "".join(f"{entry.revoked_line}\n" for entry in added)
            write_text_atomic(path, text + lines)
    return added


def issued_certificates(folder: Path) -> list[Issued]:
    """The authority's certificate and all that it signed: the server's, then by client and age."""
    with locked(folder):
        authority = Authority(folder)
        own = authority.certificate
        first = Issued(AUTHORITY, own.serial_number, own.not_valid_after_utc, True, False)
        return [first, *_listed(authority)]


def _listed(authority: Authority) -> list[Issued]:
    path = authority.folder / SERVER / REVOKED_FILE
    revoked = parse_revoked(read_revoked(path), path)
    listed = []
    for name in authority.names():
        certificates = authority.certificates(name)
        for number, certificate in certificates.items():
            serial, not_after = certificate.serial_number, certificate.not_valid_after_utc
            is_newest = number == max(certificates)
            listed.append(Issued(name, serial, not_after, is_newest, serial in revoked))
    return listed


def _require_known(authority: Authority, option: str, name: str) -> None:
    known = authority.names()
    if name not in known:
        shown = known if len(known) <= 8 else [*known[:3], "…", known[-1]]
        raise InputError(
            option,
            name,
            f"a name that has a certificate ({', '.join(shown)})",
            "airtune deploy keys DIR --list shows them all",
        )
