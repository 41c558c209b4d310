"""From what a user names (`builtin`, a file, a folder, a hub data set) to examples."""

import filecmp
import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from airtune.data.builtin_tasks import BUILTIN_TASKS, builtin_examples
from airtune.data.builtin_words import Draw
from airtune.data.cells import Flag, Row, RowError
from airtune.data.client_files import ClientFiles
from airtune.data.formats import FORMATS, Format, choose_format
from airtune.data.opening import open_source, part_file
from airtune.data.rows import Rows, open_rows
from airtune.data.tasks import Example, Score
from airtune.data.text_files import Csv
from airtune.errors import InputError
from airtune.seeds import generator

TEST_SHARE = 0.1
"""The share of prompts held out where a source has no test part of its own."""
BUILTIN_COUNTS = {"train": 4096, "test": 256}


@dataclass(frozen=True)
class TaskData:
    """The examples of an experiment.

    `separator` stands between prompt and completion where the tokenizer has no chat template;
    `score` judges answers beside their loss (None: the loss alone); `notice` is a sentence for the
    user where a part was held out, else empty. `clients` is how many files of clients the training
    rows came from, each example with the number of its own (None: they are not apart by client).
    """

    format_name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    score: Score | None
    separator: str
    notice: str = ""
    clients: int | None = None


@dataclass(frozen=True)
class SourceOptions:
    """How to read sources: the `data` keys of an experiment that are not the sources themselves."""

    format_name: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    delimiter: str | None = None


def load_task_data(
    train: str,
    test: str | None = None,
    options: SourceOptions = SourceOptions(),
    seed: int = 0,
) -> TaskData:
    """Examples from `train`, and from `test` where it is given.

    Each is `builtin`, `builtin:slots`, `builtin:arithmetic`, a file (jsonl, json, csv, tsv,
    parquet; all but parquet with gz, too), a folder with a train and a test file, a folder with a
    file for each client (`client-0.jsonl`, ...) and perhaps a test file, or a hub data set
    `owner/name[:configuration]`. Where a source has no
    test part, a tenth of its prompts is held out (all rows of a prompt together, by a checksum, so
    that the order of rows does not matter). A limit draws that many rows at random.

    Raises InputError, which names the file, the line and the column.
    """
    _check_limits(options)
    if train == "builtin" or train.startswith("builtin:"):
        return _load_builtin(train, test, options, seed)
    train_rows, own_test = open_source(train, "data.train", options.delimiter)
    test_rows = own_test
    if test is not None:
        test_rows = _test_of(*open_source(test, "data.test", options.delimiter))
    if not any(map(_is_delimited, (train_rows, test_rows))):
        _refuse_delimiter(options)
    chosen = _choose(train_rows, options)
    if test_rows is not None:
        if not set(chosen.columns) <= set(test_rows.columns):
            _choose(test_rows, replace(options, format_name=chosen.name))
        train_part: Iterator[Example] = _examples(train_rows, chosen)
        test_part, notice = _examples(test_rows, chosen), ""
    else:
        held_out = _held_out_prompts(train_rows, chosen)
        train_part = (e for e in _examples(train_rows, chosen) if _checksum(e) not in held_out)
        test_part = (e for e in _examples(train_rows, chosen) if _checksum(e) in held_out)
        held = "texts" if chosen.name == "text" else "prompts"
        notice = (
            f"{train_rows.name} has no test part: a tenth of its {held} ({len(held_out)}) is "
            "held out for testing and not trained on."
        )
    return TaskData(
        chosen.name,
        _limited(train_part, options.train_limit, seed, "train"),
        _limited(test_part, options.test_limit, seed, "test"),
        chosen.score,
        chosen.separator,
        notice,
        len(train_rows.parts) if isinstance(train_rows, ClientFiles) else None,
    )


def load_test_data(train: str, test: str | None, options: SourceOptions, seed: int) -> TaskData:
    """The test part alone, for a server whose clients hold the training rows; `train` is empty.

    No training row is read. Raises InputError where the test rows would be held out from them.
    """
    _check_limits(options)
    if train == "builtin" or train.startswith("builtin:"):
        return replace(_load_builtin(train, test, options, seed), train=())
    mark = options.delimiter
    rows = open_source(train, "data.train", mark)[1] if test is None else None
    if test is not None:
        rows = _test_of(*open_source(test, "data.test", mark))
    if rows is None:
        raise InputError(
            "data.test",
            None,
            "given where the clients hold the training rows",
            "name a test set, or write one with `airtune deploy shards`",
        )
    chosen = _choose(rows, options)
    examples = _limited(_examples(rows, chosen), options.test_limit, seed, "test")
    return TaskData(chosen.name, (), examples, chosen.score, chosen.separator)


def load_client_data(path: Path, options: SourceOptions) -> tuple[Example, ...]:
    """The rows of one client's own file; a built-in task's have a prompt and a completion."""
    mark = options.delimiter
    allowed = f"one character, for a csv or tsv file ({path} is --data)"
    # csv itself raises for more than one character, or a quote.
    if mark is not None and (len(mark) != 1 or mark in '"\r\n\0'):
        raise InputError("--delimiter", repr(mark), allowed)
    rows = open_rows(path, "--data", mark)
    if mark is not None and not _is_delimited(rows):
        raise InputError("--delimiter", repr(mark), allowed)
    if (options.format_name or "").partition(":")[0] == "builtin":
        options = replace(options, format_name=None)
    return tuple(_examples(rows, _choose(rows, options)))


def _check_limits(options: SourceOptions) -> None:
    for part, limit in (("train", options.train_limit), ("test", options.test_limit)):
        if limit is not None and limit < 1:
            raise InputError(f"data.{part}_limit", limit, "at least 1", "leave it out for all rows")


def _is_delimited(rows: Rows | None) -> bool:
    parts = rows.parts if isinstance(rows, ClientFiles) else [rows]
    return any(isinstance(part, Csv) for part in parts)


def _refuse_delimiter(options: SourceOptions) -> None:
    if options.delimiter is not None:
        raise InputError(
            "data.delimiter",
            repr(options.delimiter),
            "left out where neither data.train nor data.test is a csv or tsv file",
            "remove the key",
        )


def _load_builtin(train: str, test: str | None, options: SourceOptions, seed: int) -> TaskData:
    _refuse_delimiter(options)
    task = train.partition(":")[2] or "slots"
    if task not in BUILTIN_TASKS:
        names = " or ".join(f"builtin:{name}" for name in BUILTIN_TASKS)
        raise InputError("data.train", train, names)
    if test not in (None, train, f"builtin:{task}"):
        raise InputError(
            "data.test", test, f"left out where data.train is {train}", "it has its own test part"
        )
    limits = {"train": options.train_limit, "test": options.test_limit}
    parts = {
        part: tuple(builtin_examples(task, part, limits[part] or count, seed))
        for part, count in BUILTIN_COUNTS.items()
    }
    score = FORMATS["e2e" if task == "slots" else "gsm8k"].score
    return TaskData(train, parts["train"], parts["test"], score, "\n")


def _test_of(rows: Rows, own_test: Rows | None) -> Rows:
    """Of a folder or hub data set named for testing, its test part; of a file, the file."""
    return rows if own_test is None else own_test


def _choose(rows: Rows, options: SourceOptions) -> Format:
    """By the columns with a text in the first row, else by all of it: the row is then named."""

    def choose(columns: Iterable[str]) -> Format:
        return choose_format(
            options.format_name,
            columns,
            rows.name,
            options.prompt_column,
            options.completion_column,
        )

    try:
        return choose(rows.columns)
    except InputError:
        return choose(rows.keys)


def _examples(rows: Rows, chosen: Format) -> Iterator[Example]:
    """Every row as an example, with its other columns, and its client where files are apart."""
    if isinstance(rows, ClientFiles):
        for client, part in enumerate(rows.parts):
            for example in _examples(part, chosen):
                yield replace(example, client=client)
        return
    for place, row in rows:
        _check_texts(place, row, chosen)
        try:
            example = chosen.example(row)
        except RowError as error:
            where = f"{place}, column {error.column!r}"
            raise InputError(where, error.value, error.allowed) from None
        others = {column: text for column, text in row.items() if column not in chosen.columns}
        yield replace(example, columns=others, place=place)


def _check_texts(place: str, row: Row, chosen: Format) -> None:
    for column in chosen.columns:
        if column not in row:
            raise InputError(place, f"without a text in column {column!r}", "a full row")
        if isinstance(row[column], Flag):
            raise InputError(
                f"{place}, column {column!r}",
                row[column],
                "a text",
                "write it in quotes if it is one",
            )


def _checksum(example: Example) -> int:
    text = example.completion if example.whole else example.prompt
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _held_out_prompts(rows: Rows, chosen: Format) -> set[int]:
    """Checksums of a tenth of the different prompts, the least ones; of the texts where rows have
    no prompt. At least one."""
    prompts = {_checksum(example) for example in _examples(rows, chosen)}
    if len(prompts) < 2:
        raise InputError(
            "data.train",
            f"{rows.name} ({len(prompts)} different prompts)",
            "a source with at least two prompts, one of them for testing",
            "give data.test",
        )
    return set(heapq.nsmallest(max(1, round(TEST_SHARE * len(prompts))), prompts))


def _limited(
    examples: Iterator[Example], limit: int | None, seed: int, part: str
) -> tuple[Example, ...]:
    """All examples, or `limit` of them drawn at random, in the order of the source."""
    if limit is None:
        return tuple(examples)
    draw = Draw(generator(seed, f"data/limit/{part}"))
    keyed = ((draw.uniform(), index, example) for index, example in enumerate(examples))
    # A stream and a heap: the whole source is never in memory at once.
    kept = heapq.nsmallest(limit, keyed, key=lambda entry: entry[:2])
    return tuple(example for _, _, example in sorted(kept, key=lambda entry: entry[1]))


_REMEDY = "leave it out, and a tenth of the prompts is held out, or name another file"


def refuse_training_rows(train: str, test: str | None, task: TaskData) -> None:
    """InputError where `data.test` names the training rows.

    By its path, by a link, by a file of the same bytes, or by rows all of which are trained on.
    """
    if test is None:
        return
    ours, theirs = part_file(train, "train"), part_file(test, "test")
    if ours is not None and theirs is not None:
        same = ours.samefile(theirs)
        if same or filecmp.cmp(ours, theirs, shallow=False):
            how = "the same file as data.train" if same else "a copy of data.train"
            raise InputError("data.test", f"{test} ({how})", "other rows", _REMEDY)
    if _trained_on(task) == len(task.test):
        problem = f"{test} (all {len(task.test)} rows are training rows)"
        raise InputError("data.test", problem, "other rows", _REMEDY)


def overlap_notice(task: TaskData) -> str:
    """What share of the test rows is trained on, as a sentence; empty where none is."""
    count = _trained_on(task)
    return f"{count} of {len(task.test)} test rows are training rows, too." if count else ""


def _trained_on(task: TaskData) -> int:
    trained = {(example.prompt, example.completion) for example in task.train}
    return sum((example.prompt, example.completion) in trained for example in task.test)
