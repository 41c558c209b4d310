"""`environment.json`: with what a run began, and every time that it went on.

It is the one file of a run that two runs of the same experiment need not share: versions, machine,
command, and sentences about what happened.
"""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airtune import __version__
from airtune.config.experiment import ExperimentConfig
from airtune.federated.records.fingerprint import Difference, Fingerprint
from airtune.files import read_text, write_json_atomic
from airtune.wireless.channel import channel_source

PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "safetensors")
OPTIONAL = ("bitsandbytes",)
"""Of an extra: named where the run imports it."""
HIDDEN = "..."
PROCESSOR = "vector unit"
_NAME = "environment.json"


def _packages() -> tuple[str, ...]:
    return (*PACKAGES, *(name for name in OPTIONAL if sys.modules.get(name) is not None))


def versions() -> dict[str, str]:
    """Versions and the processor's vector unit, on which the last bits of a result depend."""
    import torch

    return {
        "airtune": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _packages()},
        PROCESSOR: str(torch.backends.cpu.get_cpu_capability()),
    }


def command() -> list[str]:
    """The command as given, without the values of its settings: those may be secret, and those
    that are no secrets are in the resolved experiment."""
    shown, hide = [], False
    for word in sys.argv[1:]:
        name, equals, _ = word.removeprefix("--set=").partition("=")
        setting = hide or word.startswith("--set=")
        prefix = "--set=" if word.startswith("--set=") else ""
        shown.append(f"{prefix}{name}{equals}{HIDDEN}" if setting and equals else word)
        hide = word == "--set"
    return shown


@dataclass
class Sessions:
    """The file of one run folder, read once and written when something is added.

    `notes` are what was wrong with the file, if anything.
    """

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Sessions":
        """Those of a run folder; none, with a note, where the file cannot be read."""
        path = folder / _NAME
        if not path.exists():
            return cls(path)
        try:
            content = json.loads(read_text(path, "RUN_DIR"))
            if isinstance(content, dict) and isinstance(content.get("sessions", []), list):
                return cls(path, content)
            reason = "it holds something else"
        except Exception as error:  # damaged in any way: only a record of the past is lost
            reason = " ".join(str(error).split())
        return cls(path, {}, [f"{_NAME} is damaged ({reason}) and was started again."])

    @property
    def all(self) -> list[dict[str, Any]]:
        """What is recorded of each session, the first one first."""
        return [entry for entry in self.content.get("sessions", []) if isinstance(entry, dict)]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """User-defined parts, with the folders that they came from."""
        found = self.content.get("parts", [])
        return [entry for entry in found if isinstance(entry, dict)] if found else []

    @property
    def accepted(self) -> dict[str, Any]:
        """Differences that the newest session accepted, name -> [before, after]."""
        changes = self.all[-1].get("changes") if self.all else None
        return dict(changes) if isinstance(changes, dict) else {}

    def changes(self) -> list[str]:
        """Deliberate changes so far, as sentences."""
        said = [
            f"After round {entry.get('after_round')} the run went on with changes: "
            f"{'; '.join(_change(name, *values) for name, values in entry['changes'].items())}."
            for entry in self.all
            if entry.get("changes")
        ]
        return list(dict.fromkeys(said))

    def notices(self) -> list[str]:
        """Every notice of every session once, in order."""
        said = [sentence for entry in self.all for sentence in entry.get("notices", [])]
        return list(dict.fromkeys(str(sentence) for sentence in said))

    def other_versions(self) -> str:
        """How versions and processor differ from those of the newest session; empty if not."""
        before = {**self.content, **self.content.get("packages", {})}
        for entry in self.all:
            before |= entry.get("versions", {})
        now = versions()
        other = [
            f"{name} {now[name]} (was {before[name]})"
            for name in now
            if name in before and before[name] != now[name]
        ]
        if not other:
            return ""
        return (
            f"The run continues with {', '.join(other)}: rounds to come may differ in their last "
            "bits from those of a run that was never interrupted."
        )

    def begin(
        self, config: ExperimentConfig, known: Fingerprint, parts: Sequence[Mapping[str, Any]]
    ) -> None:
        """What the run begins with, where the file does not have it yet."""
        if "packages" in self.content:
            return
        found = versions()
        self.content = {
            "airtune": found["airtune"],
            "python": found["python"],
            "platform": platform.platform(),
            PROCESSOR: found[PROCESSOR],
            "seed": config.seed,
            "engine": config.engine,
            "threads": config.threads,
            "device": config.device,
            "channel": channel_source(config.cell),
            "packages": {name: found[name] for name in _packages()},
            "command": command(),
            "contents": dict(known.contents),
            "clients": [bytes(row).hex() for row in known.shards],
            "parts": list(parts),
            "sessions": [],
        }

    def add(self, after_round: int, changes: Sequence[Difference], told: Sequence[str]) -> None:
        """One more session: it is on disk before any file that follows from its changes."""
        entry: dict[str, Any] = {"after_round": after_round, "command": command()}
        if self.other_versions():
            entry["versions"] = versions()
        if changes:
            entry["changes"] = {change.name: [change.before, change.after] for change in changes}
        entry["notices"] = list(told)
        self.content["sessions"] = [*self.all, entry]
        self.write()

    def tell(self, told: Sequence[str]) -> None:
        """The notices of the newest session, where more came."""
        if self.all and self.all[-1].get("notices") != list(told):
            self.content["sessions"][-1]["notices"] = list(told)
            self.write()

    def write(self) -> None:
        """Replace the file."""
        write_json_atomic(self.path, self.content)


def _change(name: str, before: Any = None, after: Any = None) -> str:
    return f"{name} {before} -> {after}" if "." in name or name == "rounds" else f"{name} changed"
