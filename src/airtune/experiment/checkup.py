"""What a machine and an installation have for airtune, and what would go wrong there."""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from airtune import __version__
from airtune.errors import AirtuneError, reason_of
from airtune.quantities import format_quantity

Verdict = Literal["ok", "note", "fault"]
"""`note`: works, and is good to know; `fault`: `airtune run` would fail."""
LEAST_MEMORY_BYTES, LEAST_DISK_BYTES = 2e9, 1e9
"""Free memory and disk below which a note is due; no limits of airtune's own."""


@dataclass(frozen=True)
class Finding:
    """One line: what it is, what was found, and what to do about it; nothing for `ok`."""

    name: str
    value: str
    verdict: Verdict = "ok"
    remedy: str = ""


def checkup() -> list[Finding]:
    """Everything, in the order in which it matters."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _packages,
        _processor,
        _memory,
        _disk,
        _gpu,
        _traps,
        _builtin,
        _extras,
    )
    return [finding for part in parts for finding in part()]


def _versions() -> Iterator[Finding]:
    yield Finding("airtune", __version__)
    yield Finding("python", f"{platform.python_version()}, {platform.platform()}")


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(text) for text in requires("airtune") or []]
    except PackageNotFoundError:
        return []


def _packages() -> Iterator[Finding]:
    """What airtune cannot do without, against the bounds of its own metadata."""
    asked = [need for need in _requirements() if need.marker is None or need.marker.evaluate()]
    if not asked:
        remedy = "install it: pip install airtune"
        yield Finding("packages", "airtune itself is not installed, only found", "note", remedy)
    for need in asked:
        remedy = f"pip install '{need}'"
        try:
            there = version(need.name)
        except PackageNotFoundError:
            yield Finding(need.name, "missing", "fault", remedy)
            continue
        if need.specifier.contains(there, prereleases=True):
            yield Finding(need.name, there)
        else:
            yield Finding(need.name, f"{there}, too old", "fault", remedy)


def _extras() -> Iterator[Finding]:
    """Optional packages, by the extra that installs them."""
    extras: dict[str, list[Requirement]] = {}
    for need in _requirements():
        for name in ("hub", "parquet", "quant", "deploy", "flower", "ray", *_TRACKERS, "plots"):
            environment = {"extra": name}
            if need.marker and not need.marker.evaluate() and need.marker.evaluate(environment):
                extras.setdefault(name, []).append(need)
    for name, needs in extras.items():
        missing = [need.name for need in needs if need.name != "airtune" and not _has(need.name)]
        if missing:
            remedy = f"pip install 'airtune[{name}]' where you need it"
            yield Finding(f"extra {name}", f"without {', '.join(missing)}", "ok", remedy)
        else:
            yield Finding(f"extra {name}", "installed")


_TRACKERS = ("tensorboard", "wandb", "mlflow")


def _has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _processor() -> Iterator[Finding]:
    import torch

    from airtune.tuning.base_model import usable_cores

    cores, unit = usable_cores(), str(torch.backends.cpu.get_cpu_capability())
    yield Finding("cores", f"{cores} of {os.cpu_count()} usable")
    slow = unit == "DEFAULT" and platform.machine() in ("x86_64", "AMD64")
    remedy = "torch computes without AVX2: training is several times slower" if slow else ""
    yield Finding("vector unit", unit, "note" if slow else "ok", remedy)
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > cores:
        remedy = f"set it to {cores} at most: more threads than cores wait for each other"
        yield Finding("OMP_NUM_THREADS", wanted, "note", remedy)


def _memory() -> Iterator[Finding]:
    free = free_memory_bytes()
    if free is None:
        yield Finding("memory", "unknown on this system")
        return
    few = free < LEAST_MEMORY_BYTES
    remedy = "give fewer clients, a smaller model or workers=1" if few else ""
    shown = f"{format_quantity(free, 'B')} free"
    yield Finding("memory", shown, "note" if few else "ok", remedy)


def free_memory_bytes() -> float | None:
    """What is free, also within the limit of a container; None where that is not known."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable:")]
        found.append(float(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = float((group / "memory.max").read_text())
        found.append(limit - float((group / "memory.current").read_text()))
    return min(found) if found else None


def _disk() -> Iterator[Finding]:
    for name, folder in (("this folder", Path.cwd()), ("temporary folder", _temporary())):
        free = shutil.disk_usage(folder).free
        few = free < LEAST_DISK_BYTES
        if not os.access(folder, os.W_OK):
            remedy = "runs are written here: change to another folder, or give --out"
            yield Finding(name, f"{folder}, not writable", "fault", remedy)
        else:
            remedy = "a run with a large model writes more" if few else ""
            shown = f"{format_quantity(free, 'B')} free"
            yield Finding(name, shown, "note" if few else "ok", remedy)


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path("/tmp")


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        build = torch.version.cuda
        yield Finding("GPU", "none" if build else "none; torch is a build for processors alone")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        shown = f"{format_quantity(free, 'B')} of {format_quantity(total, 'B')} free"
        yield Finding(f"GPU {index}", f"{torch.cuda.get_device_name(index)}, {shown}")


def _traps() -> Iterator[Finding]:
    """Settings that surprise later."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        remedy = "models and data sets of the hub are found only where they are cached"
        yield Finding("HF_HUB_OFFLINE", "set", "note", remedy)
    proxies = [name for name in ("http_proxy", "https_proxy", "grpc_proxy") if os.environ.get(name)]
    if proxies:
        remedy = "`airtune deploy` goes through it, too: name its server in no_proxy"
        yield Finding(proxies[0], "set", "note", remedy)
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if encoding not in ("utf8", ""):
        remedy = "signs beyond it are shown as numbers: set PYTHONUTF8=1"
        yield Finding("terminal", encoding, "note", remedy)


_SENTENCE = (
    "Review: Have you seen The Velvet Pine? It is a museum. They hold rare birds. It stands near "
    "the stone bridge. We paid an average price."
)
_LOSS = 1.0986
"""Of the built-in model on this text, which is like those that it was trained on [nat a token]."""


def _builtin() -> Iterator[Finding]:
    """Whether the model that ships with airtune loads and computes."""
    import torch

    from airtune.tuning.base_model import BUILTIN, load_base

    began = time.perf_counter()
    try:
        base = load_base(BUILTIN)
        ids = torch.tensor([base.tokenizer(_SENTENCE)["input_ids"]])
        with torch.no_grad():
            loss = float(base.model(input_ids=ids, labels=ids).loss)
    except AirtuneError as error:
        yield Finding("built-in model", "does not load", "fault", str(error))
        return
    except Exception as error:
        remedy = f"{reason_of(error)}: install airtune again, with constraints.txt"
        yield Finding("built-in model", "does not load", "fault", remedy)
        return
    spent = time.perf_counter() - began
    sound = abs(loss - _LOSS) < 0.01
    remedy = "" if sound else "its numbers are wrong: install airtune and torch again"
    shown = f"loads in {spent:.1f} s, loss {loss:.2f} nat a token, as it should"
    if not sound:
        shown = f"loss {loss:.2f} nat a token on a known text, not {_LOSS:.2f}"
    yield Finding("built-in model", shown, "ok" if sound else "fault", remedy)
