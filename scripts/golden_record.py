"""Record what one tree of airtune does in every golden case: digests and numbers, as JSON.

    PYTHONPATH=SOURCE python scripts/golden_record.py SOURCE WORK --only 'jcpba*'

`golden.py` calls it for two trees. Each command of a case runs `python -m airtune ...` in a fork of
this process, which has imported everything once. Nothing here names a module of airtune below its
entry point: what is recorded comes from the files that a command leaves, from what it prints, and
from two hooks. One is Python's audit event of a rename, at which a finished checkpoint or a
client's file is digested (a run keeps the newest two). The other is around `encode` of every class
derived from the one named `Codec`, wherever it stands.
"""

import argparse
import csv
import hashlib
import importlib
import json
import os
import pkgutil
import re
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from golden_cases import TINY_MODELS, Case, chosen

SAVED = re.compile(r"(?:.*/)?((?:[^/]+/)?(?:checkpoints|clients/\d+)/round-\d+)\.safetensors")
"""Checkpoints and clients' files, with the run folder's name."""
STATE_KEYS = ("rounds_done", "time_s", "energy_j", "start_loss", "planner")
NOT_GOLDEN = (
    "experiment.yaml",
    "environment.json",
    "timing.jsonl",
    "seed-*.yaml",
    "tokenizer*.json",
    "stdout-*",
    "trace-*",
    "stderr-*",
)
"""Files that hold wording, versions, places or real seconds, or that this script wrote."""
FOREIGN = (
    "torch",
    "transformers.models.llama.modeling_llama",
    "peft",
    "plotly.graph_objects",
    "transformers.models.gpt2.modeling_gpt2",
    "sionna.phy.channel.tr38901",
)
"""What takes longer to import than a case to run."""
NO_PLAN = 3
"""Exit code of `airtune plan` for a problem without one, which is an answer."""
LIMIT_S = 300
_DIGEST_LENGTH = 64


class Trace:
    """A file of what happens in a command: payloads encoded, checkpoints and clients' files saved.

    Without a file, events are dropped.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._depth = 0

    def begin(self, path: Path) -> None:
        """Write the events of this process there."""
        self._path = path

    def encoding(self, encode: Callable[..., bytes]) -> Callable[..., bytes]:
        """`encode` with its answer recorded, unless another codec called it."""

        def recorded(codec: Any, *values: Any, **named: Any) -> bytes:
            self._depth += 1
            try:
                payload = encode(codec, *values, **named)
            finally:
                self._depth -= 1
            if not self._depth:
                given = [*values, *named.values()]
                client = next((v.client for v in given if hasattr(v, "client")), None)
                self._write({"client": str(client), "payload": _digest(payload)})
            return payload

        return recorded

    def audit(self, event: str, values: tuple[Any, ...]) -> None:
        """Audit hook: digest a checkpoint or a client's file as it is put in its place."""
        if event != "os.rename" or self._path is None:
            return
        saved = SAVED.fullmatch(os.fsdecode(values[1]))
        if saved:
            tensors, state = read_tensors(Path(os.fsdecode(values[0])).read_bytes())
            self._write({"saved": saved[1], "digests": tensors, "state": state})

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")


TRACE = Trace()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_tensors(content: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """A digest for each group of tensors in a safetensors file, and a checkpoint's JSON state.

    Tensors are digested in the order of their names, with dtype and shape; a group is the first
    part of a name before a slash. Metadata are not digested.
    """
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    state = _state(header.pop("__metadata__", None) or {})
    groups: dict[str, Any] = {}
    for name, entry in sorted(header.items()):
        start, end = entry["data_offsets"]
        group = name.split("/")[0] if "/" in name else "tensors"
        total = groups.setdefault(group, hashlib.sha256())
        total.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
        total.update(data[start:end])
    return {name: total.hexdigest()[:16] for name, total in groups.items()}, state


def _state(metadata: Mapping[str, str]) -> dict[str, Any]:
    if "state" not in metadata:
        return {}
    values = json.loads(metadata["state"][_DIGEST_LENGTH:])
    return {key: values[key] for key in STATE_KEYS if key in values}


def prepare(source: Path) -> None:
    """Import everything, and set the two hooks; called before any fork.

    Nothing here survives a crash of the machine, so files need not reach the disk.
    """
    import airtune

    if Path(airtune.__path__[0]).resolve().parent != source:
        sys.exit(f"airtune comes from {airtune.__path__[0]}, not from {source}: set PYTHONPATH.")
    for name in FOREIGN:
        importlib.import_module(name)
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    # A first figure imports two hundred modules, which every report would import again.
    graph = importlib.import_module("plotly.graph_objects")
    graph.Figure(graph.Scatter(x=[0], y=[0]), {"template": "simple_white"}).to_json()

    for module in pkgutil.walk_packages(airtune.__path__, "airtune."):
        # No case deploys, and the frameworks for it may not be installed.
        if not module.name.endswith("__main__") and ".deploy." not in module.name:
            importlib.import_module(module.name)
    bases = {
        value
        for name, module in list(sys.modules.items())
        if name.startswith("airtune.")
        for value in vars(module).values()
        if isinstance(value, type) and value.__name__ == "Codec"
    }
    if not bases:
        sys.exit(f"No class of {airtune.__path__[0]} is named Codec: payloads cannot be recorded.")
    for base in bases:
        _record_encoding(base)
    sys.addaudithook(TRACE.audit)


def _record_encoding(codec: type) -> None:
    if "encode" in vars(codec):
        codec.encode = TRACE.encoding(vars(codec)["encode"])  # type: ignore[attr-defined]
    derived: type
    for derived in codec.__subclasses__():
        _record_encoding(derived)


def make_models(work: Path) -> None:
    """Untrained models of a few thousand parameters with the built-in tokenizer, from fixed draws.

    They are the same in both trees, and much faster than the built-in model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if _forked(["model", "export", "builtin", "tokenizer"], work, "setup"):
        sys.exit(f"airtune model export failed: {(work / 'stderr-setup').read_text()}")
    for name, given in TINY_MODELS.items():
        shutil.copytree(work / "tokenizer", work / name, ignore=lambda *_: ["model.safetensors"])
        torch.manual_seed(0)
        settings = dict(given)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        AutoModelForCausalLM.from_config(config).save_pretrained(work / name)
        # Loading one here fills tables that every fork would otherwise fill again.
        AutoModelForCausalLM.from_pretrained(work / name)


def record_all(cases: Sequence[Case], work: Path, jobs: int) -> None:
    """Leave the recording of each case in `NAME.json`, so many at once, each in its own process."""

    def recorder(case: Case) -> Callable[[], int]:
        def record() -> int:
            recording = json.dumps(record_case(case, work)).replace(str(work), "WORK")
            (work / f"{case.name}.partial").write_text(recording)
            (work / f"{case.name}.partial").rename(work / f"{case.name}.json")
            return 0

        return record

    running: set[int] = set()
    for case in cases:
        if len(running) == jobs:
            running.remove(os.wait()[0])
        running.add(_fork(recorder(case)))
    for child in running:
        os.waitpid(child, 0)


def record_case(case: Case, work: Path) -> dict[str, Any]:
    """Run a case's commands in a folder of its own until one fails, and read what they left."""
    folder = work / case.name
    folder.mkdir()
    for name, text in case.files.items():
        (folder / name).write_text(text)
    began, codes = time.perf_counter(), []
    for number, command in enumerate(case.commands):
        codes.append(_forked(command, folder, str(number)))
        if codes[-1] not in (0, NO_PLAN):
            break
    last = len(codes) - 1
    return {
        "codes": codes,
        "seconds": time.perf_counter() - began,
        "stderr": (folder / f"stderr-{last}").read_text()[-2000:],
        "printed": [_printed(folder / f"stdout-{number}") for number in range(len(codes))],
        "trace": [_traced(folder / f"trace-{number}") for number in range(len(codes))],
        "files": _files(folder),
    }


def _forked(command: Sequence[str], folder: Path, name: str) -> int:
    """The exit code of `airtune COMMAND` in this folder; streams and trace go to files there."""

    def run() -> int:
        os.chdir(folder)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{stream}-{name}", os.O_WRONLY | os.O_CREAT), number)
        TRACE.begin(folder / f"trace-{name}")
        sys.argv = ["airtune", *command]
        runpy.run_module("airtune", run_name="__main__", alter_sys=True)
        return 0

    return _wait(_fork(run), LIMIT_S)


def _fork(run: Callable[[], int]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code: Any = 70
    try:
        code = run()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _wait(child: int, limit_s: float) -> int:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def _printed(path: Path) -> Any:
    """What was printed as JSON; nothing for text."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def _traced(path: Path) -> dict[str, Any]:
    """Digests and states by checkpoint; a checkpoint also has the payloads since the last one.

    Payloads after the last checkpoint, and of searches, which make none, stand under `rest`. A
    client's payloads are a set: encoding one twice changes nothing.
    """
    found: dict[str, Any] = {}
    payloads: dict[str, set[str]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = json.loads(line)
        if "payload" in entry:
            payloads.setdefault(entry["client"], set()).add(entry["payload"])
            continue
        saved = found[entry["saved"]] = {"digests": entry["digests"]}
        if "checkpoints" in entry["saved"]:
            saved |= {"state": entry["state"], "payloads": _sorted(payloads)}
            payloads = {}
    return {**found, "rest": {"payloads": _sorted(payloads)}}


def _sorted(payloads: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {client: sorted(digests) for client, digests in payloads.items()}


def _files(folder: Path) -> dict[str, Any]:
    """What the case's commands left, by path; tables as parsed, tensors as digests."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        skipped = any(fnmatch(name, rule) or fnmatch(path.name, rule) for rule in NOT_GOLDEN)
        if skipped or SAVED.fullmatch(name) or path.suffix not in READERS:
            continue
        found[name] = READERS[path.suffix](path)
    return found


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _table(path: Path) -> list[list[Any]]:
    with path.open(newline="") as stream:
        return [[_cell(cell) for cell in row] for row in csv.reader(stream)]


def _cell(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _yaml(path: Path) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(path)


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": _lines,
    ".csv": _table,
    ".yaml": _yaml,
    ".safetensors": lambda path: {"digests": read_tensors(path.read_bytes())[0]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="the folder that airtune must come from")
    parser.add_argument("work", type=Path, help="an empty folder for the runs")
    parser.add_argument("--only", default="*", help="patterns of cases, as jcpba-*,plan-*")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    given = parser.parse_args()
    work = given.work.resolve()
    prepare(given.source.resolve())
    make_models(work)
    record_all(chosen(given.only), work, given.jobs)


if __name__ == "__main__":
    main()
