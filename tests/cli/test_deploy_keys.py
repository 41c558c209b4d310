"""`airtune deploy keys`: what it prints, and what it refuses in one sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airtune.deploy.issuing import renew
from airtune.deploy.keys import read_client_keys
from tests.deploy.conftest import validity

Call = Callable[..., tuple[int, str, str]]


def test_from_first_keys_to_revocation(airtune: Call, tmp_path: Path) -> None:
    code, out, err = airtune("deploy", "keys", "keys", "--clients", 4, "--host", "fl.example.org")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "Made in keys: ca, server, client-0 to client-3."
    assert "keys/ca/ca.key can add clients" in out

    code, out, err = airtune("deploy", "keys", "keys", "--clients", 6)
    assert (code, err) == (0, "")
    assert out == (
        "Made in keys: client-4, client-5.\nKept as they were: ca, server, client-0 to client-3.\n"
    )
    assert airtune("deploy", "keys", "keys", "--clients", 6)[1].startswith("Nothing was missing")

    code, out, err = airtune("deploy", "keys", "keys", "--renew", "client-3")
    assert (code, err) == (0, "")
    assert out.startswith("Renewed: copy keys/client-3/client.pem to the machine that uses it.\n")
    serial = out.split()[-1].rstrip(".")

    code, out, err = airtune("deploy", "keys", "keys", "--revoke", serial)
    assert (code, err) == (0, "")
    assert out.startswith(f"Revoked: {serial}  # client-3, 20")
    assert airtune("deploy", "keys", "keys", "--revoke", serial)[1].startswith("Nothing to revoke")

    code, out, err = airtune("deploy", "keys", "keys", "--list")
    assert (code, err) == (0, "")
    rows = [
        line.split() for line in out.splitlines() if line.startswith(("ca", "server", "client-3"))
    ]
    assert rows.pop(0)[2:] == ["3649", "no", "in", "use"]
    assert rows[0][2:] == ["364", "no", "in", "use"]
    assert rows[1] == ["client-3", serial, "364", "yes", "replaced"]
    assert rows[2][2:] == ["364", "no", "in", "use"]
    assert read_client_keys(tmp_path / "keys" / "client-3").client == 3


def test_validities(airtune: Call) -> None:
    arguments = ("--clients", 1, "--days", 10, "--ca-days", 20)
    code, _, err = airtune("deploy", "keys", "keys", *arguments)
    assert code == 0
    warnings = err.splitlines()
    assert len(warnings) == 3
    assert "The authority's certificate expires in 19 days (20" in warnings[0]
    assert "The certificate of server expires in 9 days (20" in warnings[1]
    assert "`airtune deploy keys DIR --renew client-0`" in warnings[2]
    assert airtune("deploy", "keys", "keys", "--renew", "server", "--days", 21) == (
        2,
        "",
        "airtune: --days is 21, but it must be from 1 to 20, as long as the authority lasts: give "
        "a number in between, or make new keys in another folder.\n",
    )


def test_expired_certificates_are_listed(airtune: Call, tmp_path: Path) -> None:
    airtune("deploy", "keys", "keys", "--clients", 1)
    with validity(-9, -1.5):
        renew(tmp_path / "keys", "client-0")
    code, out, err = airtune("deploy", "keys", "keys", "--list")
    assert code == 0
    assert out.splitlines()[-1].split()[2:] == ["-2", "no", "in", "use"]
    assert "The certificate of client-0 has expired (20" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give one of --clients, --renew, --revoke and --list"),
        (("--list",), "DIR is keys, but it must be a folder of keys: make it"),
        (("--clients", 0), "--clients is 0, but it must be a number from 1 to 10000"),
        (("--clients", 2, "--list"), "--list is given, but it must be left out beside --clients"),
        (("--renew", "server", "--ca-days", 3), "--ca-days is 3, but it must be left out beside"),
        (("--renew", "client-0", "--host", "a"), "--host is a, but it must be left out for a"),
        (("--revoke", "client-0", "--days", 3), "--days is 3, but it must be left out beside"),
        (("--list", "--host", "a"), "--host is ['a'], but it must be left out beside --list"),
    ],
)
def test_what_is_refused(
    airtune: Call, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    code, out, err = airtune("deploy", "keys", "keys", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("option", ["--days", "--ca-days"])
def test_options_without_effect(airtune: Call, option: str) -> None:
    airtune("deploy", "keys", "keys", "--clients", 1)
    code, _, err = airtune("deploy", "keys", "keys", "--clients", 1, option, 9)
    assert code == 2
    assert f"airtune: {option} is 9, but it must be left out where" in err


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise ModuleNotFoundError(name=name)", "which is not installed"),
        (
            "raise ImportError('no libssl', name=name + '.x')",
            "which cannot be imported (ImportError: no libssl)",
        ),
    ],
)
def test_without_the_extra(tmp_path: Path, fault: str, words: str) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'cryptography': {fault}\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.argv = ['airtune', 'deploy', 'keys', '{tmp_path}/keys', '--clients', '1']\n"
        "from airtune.cli.main import entry\n"
        "entry()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == (
        f"airtune: airtune deploy needs cryptography, {words}: pip install 'airtune[deploy]'.\n"
    )
    assert not (tmp_path / "keys").exists()


def test_the_command_line_starts_without_the_extra() -> None:
    code = (
        "import sys\n"
        "from airtune.cli.main import entry\n"
        "sys.argv = ['airtune', 'deploy', 'keys', '--help']\n"
        "try: entry()\n"
        "finally: sys.exit({'cryptography', 'grpc', 'numpy'} & sys.modules.keys() != set())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "--revoke NAME|SERIAL" in run.stdout
