"""Shaped links: transfers against the token bucket's formula, counters, interruptions, clean-up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from airtune.deploy import links as module
from airtune.deploy.links import (
    BURST_BITS,
    FRAME_BYTES,
    HEADS,
    SEGMENT_BYTES,
    LinksError,
    ShapedLinks,
    remove_left_over,
    unavailable,
)
from airtune.deploy.owned import own_name
from airtune.errors import InputError

REASON = unavailable()
needs_links = pytest.mark.skipif(REASON is not None, reason=str(REASON))
PORT = "5000"
RECEIVE = """
import socket, sys, time
listening = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    connection, _ = listening.accept()
    began, size = time.monotonic(), 0
    while received := connection.recv(1 << 16):
        size += len(received)
    print(size, time.monotonic() - began, flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as connection:
    connection.sendall(bytes(int(sys.argv[3])))
"""
FETCH = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listening:
    print("ready", flush=True)
    connection, _ = listening.accept()
    connection.sendall(bytes(int(sys.argv[3])))
    connection.close()
"""


def namespaces() -> set[str]:
    shown = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in shown.stdout.splitlines() if line}


class Receiver:
    """A process in the server's namespace that prints how much it got and how long that took."""

    def __init__(self, links: ShapedLinks) -> None:
        self._links = links
        argv = [sys.executable, "-c", RECEIVE, links.address("server"), PORT]
        process = links.popen("server", argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        self._lines = process.stdout
        assert self._lines.readline() == "ready\n"

    def send(self, client: int, size: int) -> subprocess.Popen[Any]:
        to = self._links.address("server")
        return self._links.popen(client, [sys.executable, "-c", SEND, to, PORT, str(size)])

    def took(self) -> tuple[int, float]:
        size, seconds = self._lines.readline().split()
        return int(size), float(seconds)


@pytest.fixture
def pair() -> Iterator[ShapedLinks]:
    with ShapedLinks(2) as links:
        yield links


@needs_links
def test_a_faster_link_takes_less_and_counters_see_every_frame(pair: ShapedLinks) -> None:
    """The order alone: how long it takes is a slow test."""
    receiver, took = Receiver(pair), []
    for rate_bps in (4e6, 16e6):
        pair.rates(0, up_bps=rate_bps, down_bps=16e6)
        before, other = pair.counters(0), pair.counters(1)
        assert receiver.send(0, 500_000).wait() == 0
        size, seconds = receiver.took()
        took.append(seconds)
        after = pair.counters(0)
        assert size == 500_000
        sent, frames = after.up_bytes - before.up_bytes, after.up_packets - before.up_packets
        # Heads count in every frame, as on a cable: no frame has several segments behind one head.
        assert sent / (1 + HEADS) == pytest.approx(size, rel=0.03)
        assert frames == pytest.approx(size / SEGMENT_BYTES, rel=0.03, abs=12)
        assert 0 < after.down_bytes - before.down_bytes < 0.1 * sent
        assert astuple(pair.counters(1)) == pytest.approx(astuple(other), abs=200)
    # A quarter of the rate: slower by far more than a busy machine can hide.
    assert took[0] > took[1]
    assert took[0] >= 0.97 * (8 * 500_000 * (1 + HEADS) - BURST_BITS) / (4e6 * (1 + HEADS))


@needs_links
def test_each_direction_has_its_own_rate(pair: ShapedLinks) -> None:
    """The server sends at the rate down; the rate up is far less and plays no part."""
    pair.rates(1, up_bps=2e5, down_bps=32e6)
    argv = [sys.executable, "-c", FETCH, pair.address("server"), PORT, "400000"]
    server = pair.popen("server", argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    fetch = "import socket, sys; c = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
    fetch += "while c.recv(1 << 16): pass"
    before, began = pair.counters(1), time.monotonic()
    assert pair.popen(1, [sys.executable, "-c", fetch, pair.address("server"), PORT]).wait() == 0
    # At the rate up it would take 16 s.
    assert time.monotonic() - began < 12
    down = pair.counters(1).down_bytes - before.down_bytes
    assert down / (1 + HEADS) == pytest.approx(400_000, rel=0.03)


@needs_links
def test_rates_change_in_the_middle_of_a_transfer(pair: ShapedLinks) -> None:
    receiver = Receiver(pair)
    pair.all_rates({0: (5e4, 5e4), 1: (32e6, 32e6)})
    # A minute and more at the first rate, half a second at the second.
    sending = receiver.send(0, 500_000)
    time.sleep(0.5)
    assert sending.poll() is None
    pair.rates(0, 8e6, 8e6)
    assert sending.wait(timeout=40) == 0
    assert receiver.took()[0] == 500_000


@needs_links
def test_an_interrupted_link_carries_nothing_and_goes_on_later(pair: ShapedLinks) -> None:
    receiver = Receiver(pair)
    pair.rates(0, 2e6, 2e6)
    sending = receiver.send(0, 500_000)
    while pair.counters(0).up_packets < 20:
        time.sleep(0.01)
    pair.down(0)
    still = pair.counters(0)
    time.sleep(0.5)
    assert sending.poll() is None
    assert pair.counters(0).up_packets == still.up_packets
    # The other client's link is not touched.
    assert receiver_of(pair, 1) == 1000
    pair.up(0)
    assert sending.wait(timeout=40) == 0
    assert receiver.took()[0] == 500_000


def receiver_of(links: ShapedLinks, client: int) -> int:
    """How many bytes of a thousand arrive at a listener of its own."""
    listen = RECEIVE.replace("while True:", "for _ in range(1):")
    argv = [sys.executable, "-c", listen, links.address("server"), "5001"]
    server = links.popen("server", argv, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    send = [sys.executable, "-c", SEND, links.address("server"), "5001", "1000"]
    assert links.popen(client, send).wait(timeout=30) == 0
    return int(server.stdout.readline().split()[0])


@needs_links
def test_namespaces_see_the_links_alone(pair: ShapedLinks) -> None:
    """No way out, no interface of the host, and every client an address of its own."""
    addresses = {pair.address(where) for where in ("server", 0, 1)}
    assert len(addresses) == 3
    shown = pair.popen(0, ["ip", "-br", "link"], stdout=subprocess.PIPE, text=True)
    names = {line.split()[0].partition("@")[0] for line in shown.communicate()[0].splitlines()}
    assert names == {"lo", "air0"}
    route = pair.popen(0, ["ip", "route", "get", "192.0.2.1"], stderr=subprocess.PIPE, text=True)
    assert "unreachable" in route.communicate()[1]


@needs_links
def test_nothing_is_left_after_an_exception_or_an_error_on_the_way_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links = ShapedLinks(1)
    process: Any = None
    with pytest.raises(KeyError), links:
        name = links.namespace("server")
        assert name in namespaces()
        # Ignores SIGTERM, as a client that catches everything may.
        stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
        argv = [sys.executable, "-c", f"{stubborn}; time.sleep(60)"]
        process = links.popen(0, argv, stdout=subprocess.PIPE)
        process.stdout.readline()
        raise KeyError
    assert process.poll() == -signal.SIGKILL
    assert name not in namespaces()
    real = module._run

    def failing(*command: str, said: str = "") -> str:
        if command[:2] == ("ip", "link"):
            raise LinksError("no pairs here")
        return real(*command, said=said)

    monkeypatch.setattr(module, "_run", failing)
    broken = ShapedLinks(1)
    with pytest.raises(LinksError, match="no pairs here"), broken:
        raise AssertionError
    assert broken.namespace("server") not in namespaces()


HOLD = """
import os, sys, time
from airtune.deploy.links import ShapedLinks
with ShapedLinks(1) as links:
    inner = links.popen(0, ["sleep", "60"])
    print(links.namespace(0), inner.pid, flush=True)
    time.sleep(60)
"""


def holding() -> tuple[subprocess.Popen[str], str, int]:
    """Another process with links, its client's namespace, and a process within."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name, inner = process.stdout.readline().split()
    assert name in namespaces()
    return process, name, int(inner)


@needs_links
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_removes_everything(number: signal.Signals) -> None:
    process, name, inner = holding()
    process.send_signal(number)
    assert process.wait(timeout=30) == (-signal.SIGINT if number == signal.SIGINT else 128 + number)
    assert name not in namespaces()
    assert not Path(f"/proc/{inner}").exists()


@needs_links
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not() -> None:
    living, kept, _ = holding()
    killed, name, inner = holding()
    killed.kill()
    killed.wait()
    assert name in namespaces()
    assert Path(f"/proc/{inner}").exists()
    remove_left_over()
    assert name not in namespaces()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{inner}").exists() and time.monotonic() < deadline:
        # Its parent is gone; until it is reaped it stays a zombie.
        if Path(f"/proc/{inner}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    assert kept in namespaces()
    living.terminate()
    living.wait(timeout=30)
    assert kept not in namespaces()


@needs_links
def test_a_forked_process_leaves_its_parents_links_alone(pair: ShapedLinks) -> None:
    child = os.fork()
    if child == 0:
        pair._stack.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert pair.namespace(0) in namespaces()


@needs_links
@pytest.mark.slow
@pytest.mark.parametrize("rate_bps", [4e6, 16e6])
def test_a_transfer_takes_what_the_formula_says(pair: ShapedLinks, rate_bps: float) -> None:
    """1 MB within 3 %; the least of three, since a busy machine only makes it longer."""
    receiver, took = Receiver(pair), []
    pair.rates(0, rate_bps, rate_bps)
    for _ in range(3):
        assert receiver.send(0, 1_000_000).wait() == 0
        took.append(receiver.took()[1])
        time.sleep(0.1)
    link_rate = rate_bps * FRAME_BYTES / SEGMENT_BYTES
    expected = (8 * 1_000_000 * FRAME_BYTES / SEGMENT_BYTES - BURST_BITS) / link_rate
    assert min(took) == pytest.approx(expected, rel=0.03)


def test_wrong_values_are_refused() -> None:
    for clients in (0, 1001, -1):
        with pytest.raises(InputError, match=r"clients is .* from 1 to 1000"):
            ShapedLinks(clients)
    with pytest.raises(InputError, match="overhead_share is 1"):
        ShapedLinks(1, overhead_share=1)
    links = ShapedLinks(2)
    for rate_bps in (0.0, -1.0, float("nan"), 1e12):
        with pytest.raises(InputError, match="up_bps of client 1 is"):
            links.rates(1, rate_bps, 1e6)
    for client in (2, -1):
        with pytest.raises(InputError, match=r"client is .* from 0 to 1"):
            links.counters(client)
    assert links.link_rate_bps(1448e3) == 1514e3
    assert ShapedLinks(1, overhead_share=0.0).link_rate_bps(4e6) == 4e6


def test_names_are_unique_and_fit_a_kernel() -> None:
    first, second = ShapedLinks(1000), ShapedLinks(1)
    names = {first.namespace(client) for client in range(1000)}
    names |= {first.namespace("server"), second.namespace(0), second.namespace("server")}
    assert len(names) == 1003
    assert len({first.address(client) for client in range(1000)}) == 1000
    assert max(map(len, names)) < 64
    # The kernel's limit for interfaces.
    assert len(module._port(999)) < 16
    assert own_name() != own_name()


def test_reasons_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        unavailable.cache_clear()
        said = unavailable()
        assert said is not None
        assert said.endswith(".")
        return said

    try:
        with monkeypatch.context() as changed:
            changed.setattr(os, "geteuid", lambda: 1000)
            changed.setattr(shutil, "which", lambda tool: f"/sbin/{tool}")
            assert "need root" in reason()
            changed.setattr(shutil, "which", lambda tool: None)
            assert "install iproute2" in reason()
            changed.setattr(sys, "platform", "darwin")
            assert "Linux alone" in reason()
        with monkeypatch.context() as changed:
            changed.setattr(os, "geteuid", lambda: 0)
            changed.setattr(shutil, "which", lambda tool: f"/sbin/{tool}")
            changed.setattr(sys, "platform", "linux")
            changed.setattr(module, "_run", refused)
            assert reason() == "Operation not permitted."
    finally:
        unavailable.cache_clear()


def refused(*command: str, said: str = "") -> str:
    raise LinksError("Operation not permitted.")


def test_a_failing_tool_is_quoted() -> None:
    fails = (
        "import sys; sys.exit('Command failed -:1\\nRTNETLINK answers: Operation not permitted')"
    )
    with pytest.raises(LinksError, match="said 'RTNETLINK answers: Operation not permitted'"):
        module._run(sys.executable, "-c", fails)
    with pytest.raises(LinksError, match="no-such-tool cannot be run: No such file"):
        module._run("no-such-tool")
