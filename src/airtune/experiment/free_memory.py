"""Memory that this machine has left for worker processes, and what they need of it."""

import math
from pathlib import Path

from airtune.tuning.stack import COPIES
from airtune.update.codec import Shapes

STACK_BYTES = 2**29
"""Memory for the clients of one stack, beside the model and its activations."""
HELD_BESIDES = 3
"""An adapter is also held as received, as trained, and as the change that is encoded."""
WORKER_BYTES = 5e8
"""A worker's interpreter with torch, transformers and PEFT, and its data: 0.47 to 0.49 GB resident
in the built-in experiment (`Rss` of /proc/PID/smaps_rollup), of which a third is shared."""
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def clients_at_once(shapes: Shapes) -> int:
    """Clients whose adapters, gradients and moments fit into `STACK_BYTES`."""
    return max(2, STACK_BYTES // client_bytes(shapes))


def client_bytes(shapes: Shapes) -> int:
    """A stacked client's share of the stack."""
    return 4 * (COPIES + HELD_BESIDES) * sum(math.prod(shape) for shape in shapes.values())


def free_bytes() -> float:
    """What can be had without swapping: the kernel's `MemAvailable` (proc(5)), and no more than the
    control group's `memory.max` less its `memory.current` (cgroup-v2). Infinite where neither says.
    """
    return min(_available(), _group_limit())


def _available() -> float:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return 1024.0 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return math.inf


def _group_limit() -> float:
    try:
        limit = float((_CGROUP / "memory.max").read_text())
        return limit - float((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return math.inf  # no such group, or its limit reads "max"
