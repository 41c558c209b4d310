"""The digest of `rounds.jsonl`, a chain over its lines, so that a round costs its own line."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RecordsMark:
    """The first `length` bytes of a file of lines. `digest` is empty for none, or where unknown.

    With h_0 empty, h_n = SHA-256(h_(n-1) + line n), each h in hexadecimal.
    """

    length: int = 0
    digest: str = ""

    def extended(self, path: Path) -> "RecordsMark":
        """The mark of the whole file, from the lines after this mark alone.

        From all lines where this mark does not know the digest of its own.
        """
        content = path.read_bytes() if path.exists() else b""
        start = self.length if self.digest else 0
        return RecordsMark(len(content), _chained(self.digest if start else "", content[start:]))

    def holds(self, path: Path) -> bool:
        """Whether the file still begins with the same lines; unknown counts as yes."""
        if not self.digest:
            return True
        with path.open("rb") as stream:
            return _chained("", stream.read(self.length)) == self.digest


def _chained(digest: str, lines: bytes) -> str:
    for line in lines.splitlines(keepends=True):
        digest = hashlib.sha256(digest.encode() + line).hexdigest()
    return digest
