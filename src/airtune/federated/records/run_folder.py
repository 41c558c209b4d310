"""What a run leaves behind: records a byte-identical rerun makes again, and timings it does not.

`rounds.jsonl` holds one JSON object a round and nothing of the real world: no wall-clock seconds,
no paths. Real seconds live in `timing.jsonl`. Each line of `rounds.jsonl` names its
format.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from airtune.errors import AirtuneError
from airtune.federated.records.checkpoint import (
    Checkpoint,
    ServerState,
    check_format,
    write_checkpoint,
)
from airtune.federated.records.fingerprint import Fingerprint
from airtune.federated.records.record import RoundRecord
from airtune.files import write_bytes_atomic

RECORDS_FORMAT = 2
"""Format 1 is the same without the key `format`."""


def record_line(record: Mapping[str, Any]) -> bytes:
    """One line of `rounds.jsonl`; floats in full precision, NaN and infinity refused."""
    text = json.dumps(record, allow_nan=False, separators=(",", ":"), default=dict)
    return f"{text}\n".encode()


@final
@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. `fingerprint` goes into the checkpoints that are saved."""

    path: Path
    fingerprint: Fingerprint | None = None

    @property
    def records(self) -> Path:
        return self.path / "rounds.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def experiment(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def deployment(self) -> Path:
        """There where the clients of the run are on other machines."""
        return self.path / "deploy.json"

    def records_length(self) -> int:
        """Bytes of `rounds.jsonl`, 0 before round 1. Raises AirtuneError for a folder there."""
        if self.records.is_dir():
            raise AirtuneError(f"{self.records} is a folder: move it away, and restore the file.")
        return self.records.stat().st_size if self.records.exists() else 0

    def clean(self) -> None:
        """Remove files that a killed process left half-written."""
        for litter in [
            *self.path.glob(".*.partial"),
            *self.checkpoints.glob(".*.partial"),
            *self.path.glob("clients/*/.*.partial"),
            *self.adapter.glob(".*.partial"),
            *self.model.glob(".*.partial"),
        ]:
            if litter.is_dir():
                shutil.rmtree(litter)
            else:
                litter.unlink()

    def truncate_records(self, length: int) -> None:
        """Drop rounds after a checkpoint; they will be made again, to the same bytes."""
        if self.records_length() > length:
            write_bytes_atomic(self.records, self.records.read_bytes()[:length])

    def append_record(self, record: RoundRecord) -> None:
        """Add one round; on a full disk the file is cut back to whole lines."""
        self._append(self.records, record_line({"format": RECORDS_FORMAT, **record}))

    def append_timing(self, timing: Mapping[str, Any]) -> None:
        """Add one round's real seconds."""
        self._append(self.path / "timing.jsonl", record_line(timing))

    def _append(self, path: Path, line: bytes) -> None:
        before = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            if path.exists():
                os.truncate(path, before)
            raise AirtuneError(
                f"{path} cannot be written ({error.strerror or error}): free some space."
            ) from error

    def save(self, state: ServerState) -> ServerState:
        """Checkpoint a state, after its record is on disk; what clients carry leaves memory."""
        marked = replace(state, records=state.records.extended(self.records))
        checkpoint = Checkpoint(marked, marked.records.length, self.fingerprint)
        return write_checkpoint(self.checkpoints, checkpoint)

    def read_records(self, length: int | None = None) -> list[RoundRecord]:
        """Every finished round of the first `length` bytes, or of all; a last line that was cut off
        in writing is none.

        Raises AirtuneError, naming the line, for one that is damaged or of a later format.
        """
        if not self.records_length():
            return []
        lines = self.records.read_bytes()[:length].split(b"\n")[:-1]
        return [self._record(number, line) for number, line in enumerate(lines, start=1)]

    def read_timings(self) -> list[dict[str, Any]]:
        """The real seconds of the rounds; lost or damaged ones are left out, as nothing rests on
        them."""
        found = []
        with suppress(OSError):
            for line in (self.path / "timing.jsonl").read_bytes().splitlines():
                with suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and {"round", "real_s", "stages"} <= entry.keys():
                        found.append(entry)
        return found

    def _record(self, number: int, line: bytes) -> RoundRecord:
        place = f"{self.records}, line {number}"
        try:
            found = json.loads(line)
            check_format(found.pop("format", 1), RECORDS_FORMAT, place)
            record = RoundRecord.read(found)
        except (ValueError, AttributeError, TypeError):
            record = None
        if record is None or record.round != number:
            raise AirtuneError(
                f"{place} is damaged: restore the file from a copy, or run the experiment again in "
                "a new folder."
            )
        return record
