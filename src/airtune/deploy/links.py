"""Shaped links on one machine: a network namespace for the server and for every client.

    with ShapedLinks(3) as links:
        links.rates(0, up_bps=4e6, down_bps=16e6)
        server = links.popen("server", [...])
        client = links.popen(0, [..., links.address("server")])

Every client has one virtual Ethernet pair to a bridge in the server's namespace; a token bucket
(tbf) at each end shapes one direction. The host's own network has no part in it, and nothing
reaches the outside. On a link shaped to `link_rate` TCP takes

    T = (8 bytes (1 + overhead_share) - BURST_BITS) / link_rate        [s]

Left out: propagation delay and loss. The round-trip time is about 0, so there is no slow start.
Needs Linux, root (that of a user namespace will do), and `ip` and `tc` of iproute2; `unavailable`
states what is missing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Literal, TypeAlias

from airtune.deploy.owned import ending_unwinds, is_left_over, own_name, uninterrupted
from airtune.errors import AirtuneError, InputError

FRAME_BYTES, SEGMENT_BYTES = 1514, 1448
"""An Ethernet frame, and the payload in it: TCP over IPv4 with time stamps."""
HEADS = FRAME_BYTES / SEGMENT_BYTES - 1.0
"""`overhead_share` of such frames."""
BURST_BITS = 8 * 4096
"""What a token bucket lets through at once: two full frames and some."""
MOST_CLIENTS = 1000
"""A bridge has 1024 ports."""
LEAST_BPS, MOST_BPS = 1e3, 1e11
SERVER: Literal["server"] = "server"
Place: TypeAlias = int | Literal["server"]
"""A client's number, or the server."""

_QUEUE_MS = 400
_ENDS_WITHIN_S = 2.0
_NETWORK = "10.91"
_BRIDGE, _CLIENT = "air0", "air0"


class LinksError(AirtuneError):
    """The kernel, the permissions or the tools do not allow links of one's own."""


@dataclass(frozen=True)
class LinkCounters:
    """Frames that crossed a client's link since it was made; bytes are those of whole frames."""

    up_bytes: int
    up_packets: int
    down_bytes: int
    down_packets: int


@cache
def unavailable() -> str | None:
    """Why `ShapedLinks` cannot work here, in one sentence; None where it can.

    It is tried out once a process, with one client.
    """
    if not sys.platform.startswith("linux"):
        return "Network namespaces exist on Linux alone."
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"The command {tool} is missing: install iproute2."
    if os.geteuid() != 0:
        return (
            "Network namespaces need root: run as root, or within "
            "`unshare -Urnm sh -c 'mount -t tmpfs run /run && ...'`."
        )
    try:
        with ShapedLinks(1) as links:
            links.rates(0, 1e6, 1e6)
            links.counters(0)
    except LinksError as error:
        return str(error)
    return None


class ShapedLinks:
    """Namespaces and links for some clients; a context manager that removes them whatever happens.

    What a killed process left is removed when the next one enters. On leaving, processes that still
    run within the namespaces are ended: SIGTERM, and SIGKILL after 2 s.

    Args:
        clients: how many, 1 to 1000.
        overhead_share: share by which frames exceed their payload. Rates given to `rates` are those
            of the payload, as planned; a link is shaped to `rate (1 + overhead_share)`. With
            `cell.overhead_share` airtune's rates are those on the air: give 0.

    Raises:
        InputError: a value outside these ranges.
        LinksError: on entering, where links cannot be made, with what the tool said.
    """

    def __init__(self, clients: int, overhead_share: float = HEADS) -> None:
        if not 1 <= clients <= MOST_CLIENTS:
            raise InputError("clients", clients, f"a whole number from 1 to {MOST_CLIENTS}")
        if not 0 <= overhead_share < 1:
            raise InputError("overhead_share", overhead_share, "a number from 0 to below 1")
        self.clients, self.overhead_share = clients, overhead_share
        self._name = own_name()
        self._owner = os.getpid()
        self._processes: list[subprocess.Popen[Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "ShapedLinks":
        with ExitStack() as stack:
            stack.enter_context(ending_unwinds())
            stack.callback(self._remove)
            remove_left_over()
            self._make_server()
            for client in range(self.clients):
                self._make_client(client)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def address(self, where: Place) -> str:
        """The IPv4 address of the server or of a client."""
        if where == SERVER:
            return f"{_NETWORK}.0.1"
        client = self._client(where)
        return f"{_NETWORK}.{1 + client // 250}.{1 + client % 250}"

    def namespace(self, where: Place) -> str:
        """The name of a namespace, for `ip netns`."""
        return f"{self._name}-{'s' if where == SERVER else self._client(where)}"

    def rates(self, client: int, up_bps: float, down_bps: float) -> None:
        """Shape a client's link, from now on, also in the middle of a transfer [payload bit/s]."""
        self.all_rates({client: (up_bps, down_bps)})

    def all_rates(self, rates: Mapping[int, tuple[float, float]]) -> None:
        """`rates` of several clients, client -> (up, down), in few calls."""
        down = []
        for client, (up_bps, down_bps) in rates.items():
            up = self._shape(_CLIENT, client, "up_bps", up_bps)
            down.append(self._shape(_port(client), client, "down_bps", down_bps))
            _batch("tc", self.namespace(client), [up])
        _batch("tc", self.namespace(SERVER), down)

    def link_rate_bps(self, rate_bps: float) -> int:
        """What a link is shaped to for this rate of the payload; heads included."""
        return round(rate_bps * (1.0 + self.overhead_share))

    def down(self, client: int) -> None:
        """Interrupt a client's link: what is sent is lost, and connections stay open."""
        self._on_server([f"link set dev {_port(client)} down"], client)

    def up(self, client: int) -> None:
        """Restore a client's link. TCP goes on with its next retransmission."""
        self._on_server([f"link set dev {_port(client)} up"], client)

    def counters(self, client: int) -> LinkCounters:
        """What crossed a client's link; acknowledgements and ARP count in their own direction."""
        self._client(client)
        shown = _run("ip", "-n", self.namespace(SERVER), "-s", "-j", "link", "show", _port(client))
        (link,) = json.loads(shown)
        received, sent = link["stats64"]["rx"], link["stats64"]["tx"]
        # The port receives what the client sends.
        return LinkCounters(received["bytes"], received["packets"], sent["bytes"], sent["packets"])

    def popen(self, where: Place, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process within a namespace, with the options of `subprocess.Popen`.

        Its number is that of the command itself: `ip netns exec` becomes the command.
        """
        command = ["ip", "netns", "exec", self.namespace(where), *argv]
        process: subprocess.Popen[Any] = subprocess.Popen(command, **options)
        self._processes.append(process)
        return process

    def _client(self, client: int) -> int:
        if not 0 <= client < self.clients:
            raise InputError("client", client, f"a whole number from 0 to {self.clients - 1}")
        return client

    def _shape(self, device: str, client: int, name: str, rate_bps: float) -> str:
        """One line of tc."""
        if not LEAST_BPS <= rate_bps <= MOST_BPS:
            allowed = f"a number from {LEAST_BPS:g} to {MOST_BPS:g} bit/s"
            raise InputError(f"{name} of client {client}", rate_bps, allowed)
        rate = f"rate {self.link_rate_bps(rate_bps)}bit burst {BURST_BITS // 8}"
        return f"qdisc replace dev {device} root tbf {rate} latency {_QUEUE_MS}ms"

    def _make_server(self) -> None:
        _run("ip", "netns", "add", self.namespace(SERVER))
        address = f"{self.address(SERVER)}/16"
        _batch(
            "ip",
            self.namespace(SERVER),
            [
                "link set dev lo up",
                f"link add name {_BRIDGE} type bridge",
                *_plain(_BRIDGE),
                f"address add {address} dev {_BRIDGE}",
                f"link set dev {_BRIDGE} up",
            ],
        )

    def _make_client(self, client: int) -> None:
        own, server, port = self.namespace(client), self.namespace(SERVER), _port(client)
        _run("ip", "netns", "add", own)
        pair = ("type", "veth", "peer", "name", port, "netns", server)
        _run("ip", "link", "add", "name", _CLIENT, "netns", own, *pair)
        address = f"{self.address(client)}/16"
        _batch(
            "ip",
            own,
            [
                "link set dev lo up",
                *_plain(_CLIENT),
                f"address add {address} dev {_CLIENT}",
                f"link set dev {_CLIENT} up",
            ],
        )
        self._on_server(
            [f"link set dev {port} master {_BRIDGE}", *_plain(port), f"link set dev {port} up"],
            client,
        )

    def _on_server(self, lines: Sequence[str], client: int) -> None:
        self._client(client)
        _batch("ip", self.namespace(SERVER), lines)

    def _remove(self) -> None:
        """Ends the processes and removes the namespaces, and with them all links."""
        # A process that was forked from the owner leaves its things alone.
        if os.getpid() != self._owner:
            return
        with uninterrupted():
            _end([process.pid for process in self._processes if process.poll() is None])
            for process in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_ENDS_WITHIN_S)
            _delete(lambda name: name.startswith(f"{self._name}-"))


def remove_left_over() -> None:
    """Remove namespaces of processes that are dead, and end what still runs within them."""
    _delete(is_left_over)


def _delete(chosen: Callable[[str], bool]) -> None:
    """Remove the namespaces of these names; one that is gone meanwhile does not matter."""
    for name in _namespaces():
        if chosen(name):
            with suppress(LinksError):
                _end([int(pid) for pid in _run("ip", "netns", "pids", name).split()])
            with suppress(LinksError):
                _run("ip", "netns", "delete", name)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.strip()]


def _end(pids: Sequence[int]) -> None:
    """SIGTERM, then SIGKILL to those that are still there after 2 s."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + _ENDS_WITHIN_S
        while pids and time.monotonic() < until:
            pids = [pid for pid in pids if _runs(pid)]
            time.sleep(0.01 if pids else 0.0)


def _runs(pid: int) -> bool:
    """Whether a process is there and not a zombie; a child of this process is waited for."""
    with suppress(ChildProcessError):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _port(client: int) -> str:
    return f"client{client}"


def _plain(device: str) -> tuple[str, ...]:
    """One segment a frame, so that counters and buckets see what a cable would; no IPv6 chatter.

    With segmentation offload a frame of 64 KiB would count one head.
    """
    return (
        f"link set dev {device} gso_max_segs 1",
        f"link set dev {device} addrgenmode none",
    )


def _batch(tool: str, namespace: str, lines: Sequence[str]) -> None:
    """Run lines of ip or tc within a namespace, in one call."""
    _run(tool, "-n", namespace, "-batch", "-", said="\n".join(lines))


def _run(*command: str, said: str = "") -> str:
    """The output of a command; LinksError with the last line of what it said otherwise."""
    try:
        done = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LinksError(f"{command[0]} cannot be run: {error.strerror}.") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("Command failed")]
        reason = lines[-1].strip().rstrip(".") if lines else f"exit code {done.returncode}"
        action = " ".join(command) if not said else f"{command[0]} on {command[2]}"
        raise LinksError(f"Links cannot be made: {action} said {reason!r}.")
    return done.stdout
