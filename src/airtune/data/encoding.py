"""Examples as token ids: what a model reads, and what of it it is trained to write."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airtune.data.prompts import PromptForm, prompt_form, show_prompt, token_ids
from airtune.data.tasks import Example
from airtune.errors import InputError
from airtune.files import write_bytes_atomic

_CHUNK = 4096


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows, one after another in one array.

    `token_ids` [token] int32; row k is `token_ids[starts[k]:starts[k + 1]]` and its first
    `prompt_length[k]` tokens are the prompt, the rest are labels. `example` [row] is the index of
    the example that row k was made from; rows that were dropped have none.
    """

    token_ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    prompt_length: NDArray[np.int32]
    example: NDArray[np.int64]
    cut: int
    empty: int
    too_long: int
    max_tokens: int

    def __len__(self) -> int:
        return len(self.prompt_length)

    @property
    def length(self) -> NDArray[np.int64]:
        """Tokens of each row [row]."""
        return np.diff(self.starts)

    @property
    def label_tokens(self) -> NDArray[np.int64]:
        """Label tokens of each row [row], at least one."""
        return self.length - self.prompt_length

    def row(self, index: int) -> NDArray[np.int32]:
        """The token ids of one row [token]."""
        return self.token_ids[self.starts[index] : self.starts[index + 1]]

    @property
    def notice(self) -> str:
        """What was dropped and cut, as a sentence to print; empty where nothing was."""
        total, parts = len(self) + self.empty + self.too_long, []
        if self.empty:
            parts.append(f"{self.empty} of {total} rows dropped: no completion")
        if self.too_long:
            parts.append(
                f"{self.too_long} of {total} rows dropped: their completion leaves no room for a "
                f"prompt in {self.max_tokens} tokens"
            )
        if self.cut:
            parts.append(f"{self.cut} of {total} prompts cut from the left")
        advice = " (raise data.max_tokens to keep more)" if self.too_long or self.cut else ""
        return f"{'; '.join(parts)}{advice}." if parts else ""


def encode(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int, separator: str = "\n"
) -> Encoded:
    """Tokenise examples with a Hugging Face tokenizer, at most `max_tokens` a row.

    A row that is too long loses prompt tokens from the left, never a token of the completion. A
    row is dropped, and counted, if its completion is empty, or so long that no prompt token would
    be left. Raises InputError if no row is left.
    """
    form = prompt_form(tokenizer, separator)
    builder = _Builder(form, max_tokens)
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        prompts = token_ids(tokenizer, [example.prompt + form.separator for example in chunk])
        completions = token_ids(tokenizer, [example.completion for example in chunk])
        for offset, pair in enumerate(zip(prompts, completions, strict=True)):
            builder.add(start + offset, *pair)
    if not builder.rows:
        raise InputError(
            "data.max_tokens", max_tokens, "large enough for some row's completion and a prompt",
            f"all {len(examples)} rows were dropped",
        )  # fmt: skip
    return builder.encoded()


class _Builder:
    """Puts rows together within the limit, and counts those that do not fit."""

    def __init__(self, form: PromptForm, max_tokens: int) -> None:
        self.form, self.max_tokens = form, max_tokens
        self.rows: list[NDArray[np.int32]] = []
        self.prompt_length: list[int] = []
        self.example: list[int] = []
        self.cut = self.empty = self.too_long = 0

    def add(self, index: int, prompt: list[int], completion: list[int]) -> None:
        form = self.form
        if not completion or not (form.head or prompt or form.tail):
            self.empty += 1
            return
        fixed = len(form.head) + len(form.tail) + len(completion) + len(form.end)
        room = self.max_tokens - fixed
        if room < 1:
            self.too_long += 1
            return
        kept = prompt[-room:]
        self.cut += len(kept) < len(prompt)
        asked = [*form.head, *kept, *form.tail]
        self.rows.append(np.array([*asked, *completion, *form.end], dtype=np.int32))
        self.prompt_length.append(len(asked))
        self.example.append(index)

    def encoded(self) -> Encoded:
        starts = np.zeros(len(self.rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in self.rows], out=starts[1:])
        return Encoded(
            np.concatenate(self.rows),
            starts,
            np.array(self.prompt_length, dtype=np.int32),
            np.array(self.example, dtype=np.int64),
            self.cut,
            self.empty,
            self.too_long,
            self.max_tokens,
        )


def encode_cached(
    tokenizer: Any,
    examples: Sequence[Example],
    max_tokens: int,
    separator: str,
    folder: Path,
) -> Encoded:
    """`encode`, kept in `folder` under a name that stands for everything the tokens depend on."""
    path = folder / f"tokens-{_fingerprint(tokenizer, examples, max_tokens, separator)}.npz"
    if path.is_file():
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # a damaged cache file is made anew, with the same result
    encoded = encode(tokenizer, examples, max_tokens, separator)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **{entry.name: getattr(encoded, entry.name) for entry in fields(Encoded)})
    write_bytes_atomic(path, buffer.getvalue())
    return encoded


def _load(path: Path) -> Encoded:
    with np.load(path) as stored:
        return Encoded(
            stored["token_ids"],
            stored["starts"],
            stored["prompt_length"],
            stored["example"],
            *(int(stored[name]) for name in ("cut", "empty", "too_long", "max_tokens")),
        )


def _fingerprint(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int, separator: str
) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    digest = hashlib.blake2b(digest_size=16)
    for part in (rules, getattr(tokenizer, "chat_template", None), max_tokens, separator):
        digest.update(repr(part).encode())
    for example in examples:
        # repr keeps the border between two texts, wherever they are cut.
        digest.update(repr((example.prompt, example.completion)).encode())
    return digest.hexdigest()


def show_row(tokenizer: Any, encoded: Encoded, index: int) -> str:
    """One row for people, as the model sees it: special tokens, cuts and separator included."""
    return show_prompt(tokenizer, encoded.row(index).tolist(), int(encoded.prompt_length[index]))
