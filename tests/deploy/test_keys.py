"""What a machine reads of its keys, and every way in which it refuses them."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.deploy.certificates import serial_text
from airtune.deploy.issuing import make_keys, renew
from airtune.deploy.keys import Revoked, parse_revoked, read_client_keys, read_server_keys
from airtune.errors import AirtuneError, InputError
from tests.deploy.conftest import validity

SERIALS = st.integers(min_value=1, max_value=2**159 - 1)


@pytest.fixture
def keys(made_keys: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(made_keys, tmp_path / "keys")


def test_reads_what_was_made(made_keys: Path) -> None:
    server, client = (
        read_server_keys(made_keys / "server"),
        read_client_keys(made_keys / "client-1"),
    )
    assert server.ca_pem == client.ca_pem == (made_keys / "ca" / "ca.pem").read_bytes()
    assert server.revoked == made_keys / "server" / "revoked.txt"
    assert client.client == 1
    for keys in (server, client):
        assert keys.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
        assert keys.certificate_pem.startswith(b"-----BEGIN CERTIFICATE-----\n")
        left = keys.not_after - datetime.now(UTC)
        assert timedelta(days=364) < left <= timedelta(days=365)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601])
def test_a_key_that_others_may_use_is_refused(keys: Path, mode: int) -> None:
    path = keys / "client-0" / "client.pem"
    path.chmod(mode)
    with pytest.raises(InputError, match=rf"client\.pem is open to others.*chmod 600 {path}\.$"):
        read_client_keys(keys / "client-0")
    path.chmod(0o400)
    assert read_client_keys(keys / "client-0").client == 0


def _swap_key(keys: Path) -> None:
    key = (keys / "client-1" / "client.pem").read_bytes().partition(b"-----BEGIN CERT")[0]
    path = keys / "client-0" / "client.pem"
    _, mark, certificate = path.read_bytes().partition(b"-----BEGIN CERT")
    path.write_bytes(key + mark + certificate)


def _other_authority(keys: Path) -> None:
    make_keys(keys.parent / "other", 1)
    shutil.copy(keys.parent / "other" / "ca" / "ca.pem", keys / "client-0" / "ca.pem")


def _other_kind(keys: Path) -> None:
    shutil.copy(keys / "server" / "server.pem", keys / "client-0" / "client.pem")


def _truncate(keys: Path) -> None:
    path = keys / "client-0" / "client.pem"
    path.write_bytes(path.read_bytes()[:-40])


def _no_certificate(keys: Path) -> None:
    path = keys / "client-0" / "client.pem"
    path.write_bytes(path.read_bytes().replace(b"\nM", b"\nA"))


def _expire(keys: Path) -> None:
    with validity(-9, -2):
        renew(keys, "client-0")


def _too_early(keys: Path) -> None:
    with validity(2, 9):
        renew(keys, "client-0")


def _remove(keys: Path) -> None:
    (keys / "client-0" / "client.pem").unlink()


def _encrypt(keys: Path) -> None:
    path = keys / "client-0" / "client.pem"
    path.write_bytes(path.read_bytes().replace(b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_swap_key, r"^the key in \S+client\.pem is another certificate's, but"),
        (_other_authority, r"client\.pem is not issued by \S+client-0/ca\.pem, but"),
        (_other_kind, r"client\.pem is a certificate of a server, but .* certificate of a client"),
        (_truncate, r"client\.pem is a file with 1 keys and 0 certificates, but"),
        (_no_certificate, r"^the certificate in \S+client\.pem is unreadable, but"),
        (_expire, r"client\.pem is expired since 20.*airtune deploy keys DIR --renew client-N"),
        (_too_early, r"client\.pem is not valid before 20\d\d-.* UTC, but .* set the clock"),
        (_remove, r"client-0/client\.pem is unreadable \(No such file or directory\), but"),
        (_encrypt, r"^the key in \S+client\.pem is unreadable, but .*not encrypted"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_keys_that_are_wrong(keys: Path, change: Callable[[Path], None], sentence: str) -> None:
    change(keys)
    with pytest.raises(InputError, match=sentence):
        read_client_keys(keys / "client-0")


def test_the_folder_of_another_machine(made_keys: Path) -> None:
    with pytest.raises(InputError, match=r"client-0, which is a client's, but .* a server's"):
        read_server_keys(made_keys / "client-0")
    with pytest.raises(InputError, match=r"server, which is a server's, but .* a client's"):
        read_client_keys(made_keys / "server")
    with pytest.raises(InputError, match=r"absent, but it must be a folder"):
        read_client_keys(made_keys / "absent")


def test_a_client_s_certificate_in_the_place_of_the_server_s(keys: Path) -> None:
    shutil.copy(keys / "client-0" / "client.pem", keys / "server" / "server.pem")
    with pytest.raises(InputError, match=r"server\.pem is a certificate of a client, but"):
        read_server_keys(keys / "server")


@given(listed=st.sets(SERIALS, max_size=5), other=SERIALS, data=st.data())
def test_a_list_means_its_serial_numbers(listed: set[int], other: int, data: st.DataObject) -> None:
    """Whatever the case, colons, comments and blanks around them."""
    lines = []
    for serial in listed:
        digits = serial_text(serial)
        forms = [digits, digits.lower(), ":".join(digits[k : k + 2] for k in range(0, 40, 2))]
        before = data.draw(st.sampled_from(["", "  ", "\t", "\n", "# client-1\n"]))
        after = data.draw(st.sampled_from(["", " ", "# é", "  # client-2, 2030-01-01"]))
        lines.append(before + data.draw(st.sampled_from(forms)) + after)
    text = data.draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    found = parse_revoked(text.encode(), Path("revoked.txt"))
    assert found == listed
    assert (other in found) == (other in listed)


@pytest.mark.parametrize("line", ["client-3", "12", "F" * 39, "F" * 41, "1" * 48, "G" * 40, "\xff"])
def test_an_unreadable_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "revoked.txt"
    path.write_text(f"# list\n\n{line}\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"revoked\.txt, line 3, is .*40 hexadecimal digits"):
        Revoked(path)


def test_a_list_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "revoked.txt"
    path.write_text("# none\n")
    revoked = Revoked(path)
    assert not revoked.check(5)
    stamp = path.stat()
    path.write_text(f"{serial_text(5)}\n")
    # Neither is a time stamp relied on.
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert revoked.check(5)
    assert not revoked.check(6)
    path.write_text("")
    assert revoked.check(5)
    path.write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1"):
        revoked.check(6)
    path.unlink()
    with pytest.raises(AirtuneError, match=r"revoked\.txt cannot be read \(No such file"):
        revoked.check(5)
