"""The folder of keys: made whole, extended, renewed and revoked, also when killed in between."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import Certificate
from hypothesis import given, settings
from hypothesis import strategies as st

from airtune.deploy.authority import Authority, locked
from airtune.deploy.certificates import hosts_of, load_certificate, serial_text
from airtune.deploy.issuing import issued_certificates, make_keys, renew, revoke
from airtune.deploy.keys import Revoked, read_bundle, read_client_keys, read_server_keys
from airtune.errors import AirtuneError, InputError
from tests.deploy.conftest import validity


@pytest.fixture
def keys(made_keys: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(made_keys, tmp_path / "keys")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _current(keys: Path, name: str) -> Certificate:
    return read_bundle(keys / name / f"{name.partition('-')[0]}.pem").certificate


def test_each_machine_gets_what_it_needs(made_keys: Path) -> None:
    assert sorted(_contents(made_keys)) == [
        "ca/ca.key",
        "ca/ca.pem",
        "ca/issued/client-0.1.pem",
        "ca/issued/client-1.1.pem",
        "ca/issued/server.1.pem",
        "client-0/ca.pem",
        "client-0/client.pem",
        "client-1/ca.pem",
        "client-1/client.pem",
        "server/ca.pem",
        "server/revoked.txt",
        "server/server.pem",
    ]
    keys = [name for name, data in _contents(made_keys).items() if b"PRIVATE KEY" in data]
    assert sorted(keys) == [
        "ca/ca.key",
        "client-0/client.pem",
        "client-1/client.pem",
        "server/server.pem",
    ]


def test_keys_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_keys(tmp_path / "keys", 1)
        renew(tmp_path / "keys", "client-0")
    finally:
        os.umask(before)
    for path in (tmp_path / "keys", *(tmp_path / "keys").rglob("*")):
        mode = path.stat().st_mode & 0o777
        if path.is_dir():
            assert mode == 0o700, path
        elif b"PRIVATE KEY" in path.read_bytes():
            assert mode == 0o600, path


def test_what_is_missing_is_made_and_the_rest_is_kept(keys: Path) -> None:
    before = _contents(keys)
    made = make_keys(keys, 4)
    assert made.made == ["client-2", "client-3"]
    assert made.kept == ["ca", "server", "client-0", "client-1"]
    assert {name: _contents(keys)[name] for name in before} == before
    assert read_client_keys(keys / "client-3").client == 3
    assert make_keys(keys, 2).made == []
    # A folder that was moved to its machine is no reason for a second certificate.
    shutil.rmtree(keys / "client-1")
    assert make_keys(keys, 4).made == []
    assert not (keys / "client-1").exists()
    assert renew(keys, "client-1")[0].name == "client-1"
    assert read_client_keys(keys / "client-1").client == 1


@settings(max_examples=10)
@given(counts=st.lists(st.integers(min_value=1, max_value=4), min_size=1, max_size=4))
def test_any_order_of_calls_makes_each_client_once(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("order") / "keys"
    found: dict[str, bytes] = {}
    for count in counts:
        make_keys(folder, count)
        now = _contents(folder)
        assert {name: now[name] for name in found} == found
        found = now
    names = [entry.name for entry in issued_certificates(folder)]
    assert names == ["ca", "server", *(f"client-{k}" for k in range(max(counts)))]


@pytest.mark.parametrize("there", ["notes.txt", "server", "client-0"])
def test_nothing_is_made_beside_other_things(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir()
    with pytest.raises(InputError, match=r"^DIR is .*, but it must be a new or empty folder"):
        make_keys(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"clients": 0}, "--clients is 0"),
        ({"clients": 10_001}, "--clients is 10001"),
        ({"clients": 1, "days": 0}, "--days is 0"),
        ({"clients": 1, "days": 3651}, "--days is 3651"),
        ({"clients": 1, "authority_days": 0}, "--ca-days is 0"),
        ({"clients": 1, "authority_days": 36_501}, "--ca-days is 36501"),
        ({"clients": 1, "hosts": ["a:1"]}, "--host is a:1"),
    ],
)
def test_values_out_of_range_leave_nothing(
    tmp_path: Path, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError, match=f"^{field}, but"):
        make_keys(tmp_path / "keys", **options)
    assert not (tmp_path / "keys").exists()


def test_other_hosts_for_a_server_that_is_kept(keys: Path) -> None:
    assert make_keys(keys, 3, ["FL.example.org", "localhost"]).made == ["client-2"]
    with pytest.raises(InputError, match=r"^--host is other\.org, but .*--renew server"):
        make_keys(keys, 4, ["other.org"])
    assert not (keys / "client-3").exists()


def test_renewal(keys: Path) -> None:
    """A new key, a new serial number, the same authority and names; the old one is reported."""
    for name in ("server", "client-1"):
        before = _current(keys, name)
        (earlier,) = renew(keys, name)
        after = _current(keys, name)
        assert earlier.serial == before.serial_number != after.serial_number
        assert before.public_key() != after.public_key()
        assert hosts_of(before) == hosts_of(after)
    assert read_client_keys(keys / "client-1").client == 1
    assert read_server_keys(keys / "server").revoked.read_bytes()
    renew(keys, "server", ["new.example.org"])
    assert hosts_of(_current(keys, "server"))[3:] == ["new.example.org"]
    with pytest.raises(InputError, match=r"^--host is a\.org, but it must be left out"):
        renew(keys, "client-0", ["a.org"])
    with pytest.raises(InputError, match=r"^--renew is client-9, but .*server, client-0, client-1"):
        renew(keys, "client-9")
    with pytest.raises(InputError, match=r"^--renew is \.\./x, but"):
        renew(keys, "../x")


@pytest.mark.parametrize("step", ["fsync", "replace", "record"])
def test_a_renewal_that_is_interrupted(
    keys: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The key fits its certificate at any moment, and the next call knows what is in place."""
    before = _current(keys, "client-0").serial_number

    class Killed(BaseException):
        """Like a signal that nothing handles."""

    def killed(*arguments: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr("airtune.files.os.fsync", killed)
        elif step == "replace":
            patch.setattr(Path, "replace", killed)
        else:
            patch.setattr(Authority, "_record", killed)
        with pytest.raises(Killed):
            renew(keys, "client-0")
    after = _current(keys, "client-0").serial_number
    assert (after == before) == (step != "record")
    entries = [entry for entry in issued_certificates(keys) if entry.name == "client-0"]
    assert [entry.serial for entry in entries if entry.in_use] == [after]
    assert len(entries) == (2 if step == "record" else 1)
    assert not list(keys.rglob(".*.partial"))


@pytest.mark.parametrize("after", range(1, 19))
def test_making_keys_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whatever was written by then, the same call completes the folder."""

    class Killed(BaseException):
        """Like a signal that nothing handles."""

    left = [after]
    fsync = os.fsync

    def killed(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed
        fsync(descriptor)

    keys = tmp_path / "keys"
    with monkeypatch.context() as patch:
        patch.setattr("airtune.files.os.fsync", killed)
        with pytest.raises(Killed):
            make_keys(keys, 1)
    make_keys(keys, 1)
    assert read_client_keys(keys / "client-0").ca_pem == read_server_keys(keys / "server").ca_pem
    assert not list(keys.rglob(".*.partial"))
    assert [entry.name for entry in issued_certificates(keys)] == ["ca", "server", "client-0"]


def test_revocation(keys: Path) -> None:
    """A name stands for all its certificates: a machine that was stolen may have any of them."""
    first = _current(keys, "client-0").serial_number
    renew(keys, "client-0")
    second = _current(keys, "client-0").serial_number
    path = keys / "server" / "revoked.txt"
    path.write_text(path.read_text() + "# by hand, without a line's end")
    revoked = Revoked(path)
    assert not revoked.check(first)
    assert [entry.serial for entry in revoke(keys, "client-0")] == [first, second]
    assert revoked.check(first)
    assert revoked.check(second)
    assert not revoked.check(_current(keys, "client-1").serial_number)
    assert revoke(keys, "client-0") == []
    assert path.read_text().count("  # client-0, 20") == 2
    renew(keys, "client-0")
    assert not revoked.check(_current(keys, "client-0").serial_number)


def test_revocation_by_serial_number(keys: Path) -> None:
    serial = _current(keys, "client-1").serial_number
    renew(keys, "client-1")
    assert [entry.serial for entry in revoke(keys, serial_text(serial).lower())] == [serial]
    states = {entry.serial: entry.revoked for entry in issued_certificates(keys)}
    assert [key for key, value in states.items() if value] == [serial]


def test_an_expired_certificate_is_not_revoked(keys: Path) -> None:
    with validity(-9, -2):
        renew(keys, "client-1")
    expired = _current(keys, "client-1").serial_number
    assert expired not in {entry.serial for entry in revoke(keys, "client-1")}


def test_what_cannot_be_revoked(keys: Path) -> None:
    with pytest.raises(InputError, match=r"^--revoke is server, but .*all keys anew"):
        revoke(keys, "server")
    with pytest.raises(InputError, match=r"^--revoke is \w{40}, but .*all keys anew"):
        revoke(keys, serial_text(_current(keys, "server").serial_number))
    for name in ("client-7", "F" * 40):
        with pytest.raises(InputError, match=f"^--revoke is {name}, but it must be a name"):
            revoke(keys, name)
    (keys / "server" / "revoked.txt").unlink()
    with pytest.raises(AirtuneError, match=r"revoked\.txt cannot be read"):
        revoke(keys, "client-0")


def test_what_does_not_belong_together(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "other", 1)
    shutil.copy(tmp_path / "other" / "client-0" / "client.pem", keys / "client-0" / "client.pem")
    with pytest.raises(InputError, match=r"client\.pem is for 'client-0', but .*this authority's"):
        issued_certificates(keys)
    shutil.copy(keys / "client-1" / "client.pem", keys / "client-0" / "client.pem")
    with pytest.raises(InputError, match=r"client\.pem is for 'client-1', but .*for 'client-0'"):
        issued_certificates(keys)
    shutil.rmtree(keys / "client-0")
    (keys / "client-4").mkdir()
    with pytest.raises(InputError, match=r"client-4 is without client\.pem, but"):
        make_keys(keys, 3)
    (keys / "client-4").rmdir()
    shutil.copy(tmp_path / "other" / "ca" / "ca.key", keys / "ca" / "ca.key")
    with pytest.raises(InputError, match=r"the key in \S+ca\.key is another certificate's"):
        make_keys(keys, 3)
    (keys / "ca" / "ca.key").chmod(0o644)
    with pytest.raises(InputError, match=r"ca\.key is open to others \(mode 0644\)"):
        make_keys(keys, 3)
    shutil.rmtree(keys / "ca" / "issued")
    (keys / "ca" / "ca.key").chmod(0o600)
    shutil.copy(tmp_path / "other" / "ca" / "ca.pem", keys / "ca" / "ca.pem")
    with pytest.raises(InputError, match=r"issued, which is missing, but"):
        make_keys(keys, 3)


def test_one_process_at_a_time(keys: Path, tmp_path: Path) -> None:
    with locked(keys), pytest.raises(AirtuneError, match=r"keys is in use by another"):
        make_keys(keys, 3)
    with pytest.raises(InputError, match=r"^DIR is \S+absent, but it must be a folder of keys"):
        renew(tmp_path / "absent", "server")


def test_every_signed_certificate_is_recorded(keys: Path) -> None:
    renew(keys, "client-0")
    record = load_certificate((keys / "ca" / "issued" / "client-0.2.pem").read_bytes(), "record")
    assert record == _current(keys, "client-0")
