"""Formats of data sets: tokens and labels of files against a reading in plain Python."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airtune.data.encoding import encode, show_row
from airtune.data.instructions import asked
from airtune.data.partition import column_values, partition
from airtune.data.sources import SourceOptions, load_client_data, load_task_data
from airtune.data.tasks import Example
from airtune.data.template import TemplateInputs
from airtune.errors import InputError
from tests.data.files import TEXT_KINDS, read, write
from tests.data.test_encoding import CHAT, byte_tokenizer

PLAIN, CHATTING = byte_tokenizer(), byte_tokenizer(chat=CHAT)
MARKED = byte_tokenizer(
    chat="{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
LIMIT = 2000
Pieces = list[tuple[str, bool]]
"""Texts of a row, one after another, and whether the model must write them."""
Values = Mapping[str, Any]

ALPACA = [
    {"instruction": "Add the numbers.", "input": "1, 2", "output": "3", "label": "sum"},
    {"instruction": "Name a {colour}.", "input": "", "output": "Blüe", "label": "word"},
    {"instruction": 'Say "so",\ttwice.', "input": "\n", "output": " so so", "label": "word"},
]
DOLLY = [
    {"instruction": "Who?", "context": "Ada did.", "response": "Ada", "category": "closed_qa"},
    {"instruction": "Why; how?", "context": "", "response": "So\nit is.", "category": "open_qa"},
]
TEXTS = [{"text": "Once upon a time, \n“so”.", "label": "a"}, {"text": "x", "label": "b"}]
TABLE = [{"prompt": "p, q", "completion": 'c "d"'}, {"prompt": "", "completion": "e\r\nf"}]


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _said(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


TRL = [
    {"prompt": [_turn("user", "one?")], "completion": [_turn("assistant", "1")]},
    {
        "prompt": [
            _turn("system", "Be brief."),
            _turn("user", "one?"),
            _turn("assistant", "1"),
            _turn("user", "two?"),
        ],
        "completion": [_turn("assistant", "2")],
    },
    {
        "prompt": [_turn("user", "a?"), _turn("assistant", "A"), _turn("user", "b?")],
        "completion": [_turn("assistant", "B"), _turn("user", "c?"), _turn("assistant", "C")],
    },
]
SHAREGPT = [
    {"conversations": [_said("human", "Hi"), _said("gpt", "Ho")], "system": "Rhyme."},
    {
        "conversations": [
            _said("system", "Own."),
            _said("user", "a"),
            _said("chatgpt", "b"),
            _said("human", "c"),
            _said("bard", "d"),
        ],
        "system": "Other.",
    },
    {"conversations": [_said("human", "Hi"), _said("assistant", "Ho")], "system": ""},
]
LMSYS = [{"conversation": [_turn("user", "Hi"), _turn("assistant", "Ho")], "language": "English"}]


def _instruction(row: Values, given: str, answer: str, chat: bool) -> Pieces:
    extra = row[given] if row[given].strip() else None
    if chat:
        ask = row["instruction"] + ("" if extra is None else "\n\n" + extra)
        return _chat([("user", ask), ("assistant", row[answer])])
    ask = "Below is an instruction that describes a task"
    if extra is not None:
        ask += ", paired with an input that provides further context"
    ask += ". Write a response that appropriately completes the request.\n\n### Instruction:\n"
    ask += row["instruction"]
    ask += "" if extra is None else "\n\n### Input:\n" + extra
    return [("<bos>" + ask + "\n\n### Response:", False), (row[answer] + "<eos>", True)]


def _chat(turns: list[tuple[str, str]], given: int = 0) -> Pieces:
    pieces = []
    for number, (role, text) in enumerate(turns):
        trained = role == "assistant" and number >= given
        pieces += [(f"<{role}>", False), (text + "<end>", trained)]
        # The end of a line after a turn is rendered by the template; the last one ends the row.
        pieces.append(("\n", trained))
    return pieces


def alpaca(row: Values, chat: bool) -> Pieces:
    return _instruction(row, "input", "output", chat)


def dolly(row: Values, chat: bool) -> Pieces:
    return _instruction(row, "context", "response", chat)


def text(row: Values, chat: bool) -> Pieces:
    return [("<bos>", False), (row["text"] + "<eos>", True)]


def table(row: Values, chat: bool) -> Pieces:
    if chat:
        return _chat([("user", row["prompt"]), ("assistant", row["completion"])])
    return [("<bos>" + row["prompt"] + "\n", False), (row["completion"] + "<eos>", True)]


def trl(row: Values, chat: bool) -> Pieces:
    turns = [(turn["role"], turn["content"]) for turn in row["prompt"] + row["completion"]]
    return _chat(turns, given=len(row["prompt"]))


def sharegpt(row: Values, chat: bool) -> Pieces:
    roles = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant"}
    turns = [
        (roles.get(turn["from"], turn["from"]), turn["value"]) for turn in row["conversations"]
    ]
    if row["system"] and turns[0][0] != "system":
        turns.insert(0, ("system", row["system"]))
    return _chat(turns)


def lmsys(row: Values, chat: bool) -> Pieces:
    return _chat([(turn["role"], turn["content"]) for turn in row["conversation"]])


Reading = Callable[[Values, bool], Pieces]
FLAT: dict[str, tuple[list[Any], Reading]] = {
    "alpaca": (ALPACA, alpaca),
    "dolly": (DOLLY, dolly),
    "text": (TEXTS, text),
    "table": (TABLE, table),
}
NESTED: dict[str, tuple[str, list[Any], Reading]] = {
    "trl": ("table", TRL, trl),
    "sharegpt": ("chat", SHAREGPT, sharegpt),
    "lmsys": ("chat", LMSYS, lmsys),
}


def _expected(tokenizer: Any, pieces: Pieces) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    labels: list[bool] = []
    for piece, trained in pieces:
        own = tokenizer(piece, add_special_tokens=False)["input_ids"]
        ids += own
        labels += [trained] * len(own)
    return ids, labels


def _same_tokens(
    path: Path, tokenizer: Any, reading: Reading, format_name: str, delimiter: str | None = None
) -> None:
    options = SourceOptions(delimiter=delimiter)
    data = load_task_data(str(path), str(path), options)
    assert data.format_name == format_name
    named = SourceOptions(format_name, delimiter=delimiter)
    assert load_task_data(str(path), str(path), named) == data
    encoded = encode(tokenizer, data.train, LIMIT, data.separator)
    rows = read(path, delimiter)
    assert len(encoded) == len(rows) == len(data.train)
    for index, row in enumerate(rows):
        ids, labels = _expected(tokenizer, reading(row, tokenizer is not PLAIN))
        assert encoded.row(index).tolist() == ids
        assert encoded.row_label(index).tolist() == labels


@pytest.mark.parametrize("kind", [*TEXT_KINDS, ".parquet"])
@pytest.mark.parametrize("name", FLAT)
def test_tokens_and_labels_are_those_of_a_plain_reading(
    tmp_path: Path, name: str, kind: str
) -> None:
    rows, reading = FLAT[name]
    path = tmp_path / f"rows{kind}"
    write(path, rows)
    for tokenizer in (PLAIN, CHATTING):
        _same_tokens(path, tokenizer, reading, name)


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("name", NESTED)
def test_conversations_are_those_of_a_plain_reading(tmp_path: Path, name: str, kind: str) -> None:
    format_name, rows, reading = NESTED[name]
    path = tmp_path / f"rows{kind}"
    write(path, rows)
    _same_tokens(path, CHATTING, reading, format_name)


@pytest.mark.parametrize("delimiter", [";", "|", "\t", " "])
def test_cells_between_another_delimiter(tmp_path: Path, delimiter: str) -> None:
    for name, (rows, reading) in FLAT.items():
        path = tmp_path / f"{name}.csv"
        write(path, rows, delimiter)
        _same_tokens(path, PLAIN, reading, name, delimiter)


def test_given_answers_of_a_template_with_marks_are_not_trained(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", TRL)
    data = load_task_data(path, path)
    encoded = encode(MARKED, data.train, LIMIT)
    assert show_row(MARKED, encoded, 1) == (
        "<system>Be brief.<end><user>one?<end><assistant>1<end><user>two?<end><assistant>⟹2<end>"
    )
    assert show_row(MARKED, encoded, 2) == (
        "<user>a?<end><assistant>A<end><user>b?<end><assistant>⟹B<end>⟸<user>c?<end>"
        "<assistant>⟹C<end>"
    )


def test_a_conversation_that_loses_its_oldest_exchange_keeps_what_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", TRL[2:])
    encoded = encode(CHATTING, load_task_data(path, path).train, 24)
    assert show_row(CHATTING, encoded, 0) == (
        "<user>b?<end>\n<assistant>⟹B<end>\n⟸<user>c?<end>\n<assistant>⟹C<end>\n"
    )


def test_an_input_may_be_missing(tmp_path: Path) -> None:
    rows: list[Values] = [
        {"instruction": "a", "output": "b"},
        {"instruction": "a", "output": "b", "input": None},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    first, second = load_task_data(path, path).train
    assert first == second
    assert first.prompt == "a"
    rows = [{"instruction": "a", "response": "b"}]
    path = write(tmp_path / "d.jsonl", rows)
    assert load_task_data(path, path).format_name == "dolly"


def test_labels_and_columns_partition_every_format(tmp_path: Path) -> None:
    for name, (rows, _) in FLAT.items():
        marked = [
            {**row, "label": f"l{index % 2}", "user": f"u{index}"}
            for index, row in enumerate([*rows, *rows])
        ]
        path = write(tmp_path / f"{name}.json", marked)
        train = load_task_data(path, path).train
        assert [example.label for example in train] == [row["label"] for row in marked]
        assert column_values(train, "user") == [row["user"] for row in marked]
        by_user = partition(train, 2, "column", 1.0, "user", 0, 1)
        assert sorted([*by_user[0], *by_user[1]]) == list(range(len(train)))
        assert len(partition(train, 2, "dirichlet", 0.5, None, 0, 1)) == 2
    for name, (_, rows, _) in NESTED.items():
        path = write(
            tmp_path / f"{name}.json", [{**row, "label": "x", "user": "y"} for row in rows]
        )
        train = load_task_data(path, path).train
        assert {example.label for example in train} == {"x"}
        assert {*column_values(train, "user")} == {"y"}


def test_the_category_of_dolly_is_its_label(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", DOLLY)
    train = load_task_data(path, path).train
    assert [example.label for example in train] == ["closed_qa", "open_qa"]
    assert column_values(train, "category") == ["closed_qa", "open_qa"]


def test_texts_are_held_out_by_themselves(tmp_path: Path) -> None:
    rows = [{"text": f"text {n // 2}"} for n in range(40)]
    data = load_task_data(write(tmp_path / "rows.jsonl", rows))
    assert (len(data.train), len(data.test)) == (36, 4)
    assert not {e.completion for e in data.train} & {e.completion for e in data.test}
    assert "a tenth of its texts (2)" in data.notice


def test_a_text_that_is_too_long_loses_its_end() -> None:
    examples = [Example("", word, "", whole=True) for word in ("short", "0123456789", "")]
    encoded = encode(PLAIN, examples, 8)
    shown = [show_row(PLAIN, encoded, row) for row in range(len(encoded))]
    assert shown == ["<bos>⟹short<eos>", "<bos>⟹0123456"]
    assert encoded.prompt_length.tolist() == [1, 1]
    assert encoded.notice == (
        "1 of 3 rows dropped: no completion; 1 of 3 texts cut after 8 tokens (raise "
        "data.max_tokens to keep more)."
    )


def test_a_text_that_has_its_first_and_last_token_gets_no_other() -> None:
    bare = byte_tokenizer(first=False)
    for tokenizer, ids in ((PLAIN, "<bos>⟹a<eos>"), (bare, "<bos>⟹a<eos>")):
        encoded = encode(tokenizer, [Example("", "<bos>a<eos>", "", whole=True)], 20)
        assert show_row(tokenizer, encoded, 0) == ids
    encoded = encode(bare, [Example("", "ab", "", whole=True)], 20)
    assert show_row(bare, encoded, 0) == "a⟹b<eos>"


@pytest.mark.parametrize(
    ("inputs", "key"),
    [
        (TemplateInputs(system="Be brief."), "data.system"),
        (TemplateInputs(tools=[{}]), "data.tools"),
        (TemplateInputs(values={"x": 1}), "data.template_inputs"),
        (TemplateInputs("own.jinja"), "data.chat_template"),
    ],
)
def test_texts_take_nothing_that_a_template_would_read(
    tmp_path: Path, inputs: TemplateInputs, key: str
) -> None:
    if inputs.template is not None:
        (tmp_path / "own.jinja").write_text(CHAT)
        inputs = TemplateInputs(str(tmp_path / "own.jinja"))
    with pytest.raises(InputError, match=rf"{key} is given.*data\.format is text"):
        encode(CHATTING, [Example("", "text", "", whole=True)], 20, inputs=inputs)
    dated = encode(
        CHATTING,
        [Example("", "text", "", whole=True)],
        20,
        inputs=TemplateInputs(date="2026-01-31"),
    )
    assert len(dated) == 1


def test_a_prompt_of_the_users_own_has_the_form_of_the_format() -> None:
    def shown(format_name: str, separator: str, tokenizer: Any, limit: int = 300) -> str:
        encoded = encode(tokenizer, [asked(format_name, "Why?")], limit, separator)
        return str(tokenizer.decode(encoded.prompt(0)))

    assert shown("table", "\n", PLAIN) == "<bos>Why?\n"
    assert shown("text", "", PLAIN) == shown("text", "", CHATTING) == "<bos>Why?"
    assert shown("text", "", PLAIN, 6) == "<bos>hy?"
    for name in ("alpaca", "dolly"):
        framed = shown(name, "", PLAIN)
        assert framed.startswith("<bos>Below is an instruction that describes a task. Write")
        assert framed.endswith("### Instruction:\nWhy?\n\n### Response:")
        assert shown(name, "", CHATTING) == "<user>Why?<end>\n<assistant>"


ROWS_REFUSED: list[tuple[str, Any, list[str]]] = [
    ("alpaca", {"instruction": "a", "output": None}, ["'output'", "text"]),
    ("alpaca", {"instruction": "a", "output": "b", "input": ["x"]}, ["'input'", "a text"]),
    ("alpaca", {"instruction": "a", "output": "b", "input": {"x": 1}}, ["'input'", "left out"]),
    ("alpaca", {"instruction": "a", "output": "b", "input": True}, ["'input'", "true"]),
    ("alpaca", {"instruction": True, "output": "b"}, ["'instruction'", "true"]),
    ("alpaca", {"instruction": "a", "output": "b", "input": "\ud83d"}, ["'input'", "ud83d"]),
    ("dolly", {"instruction": "a", "response": "b", "context": ["c"]}, ["'context'", "a text"]),
    ("dolly", {"instruction": ["a"], "response": "b"}, ["'instruction'", "text"]),
    ("text", {"text": ["a", "b"]}, ["'text'", "text"]),
    ("text", {"text": False}, ["'text'", "false"]),
    ("table", {"prompt": [_turn("user", "a")], "completion": "b"}, ["'completion'", "a list"]),
    ("table", {"prompt": "a", "completion": [_turn("assistant", "b")]}, ["'prompt'", "a list"]),
    ("table", {**TRL[0], "completion": [_turn("user", "b")]}, ["'completion'", "begin and end"]),
    ("table", {**TRL[0], "prompt": [_turn("assistant", "b")]}, ["'prompt'", "begins with"]),
    ("table", {**TRL[0], "prompt": [{"role": ["user"], "content": "a"}]}, ["'prompt'", "roles"]),
    ("table", {**TRL[0], "completion": [{"role": "assistant"}]}, ["'completion'", "is a text"]),
    ("chat", {**SHAREGPT[0], "system": ["x"]}, ["'system'", "a text"]),
    ("chat", {"conversations": [_said("narrator", "x")]}, ["'conversations'", "narrator"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "words"), ROWS_REFUSED)
def test_broken_rows_are_named(tmp_path: Path, name: str, row: Any, words: list[str]) -> None:
    good = {**FLAT, "table": (TRL, trl), "chat": (SHAREGPT, sharegpt)}[name][0][0]
    lines, array = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    array.write_text(json.dumps([good, row]))
    for path, place in ((lines, "a.jsonl, line 2"), (array, "a.json, entry 2")):
        with pytest.raises(InputError) as caught:
            load_task_data(str(path), str(path))
        for word in (place, *words):
            assert word in str(caught.value)


def test_formats_that_stand_beside_others_are_found_last(tmp_path: Path) -> None:
    def found(row: Values) -> str:
        path = write(tmp_path / "rows.jsonl", [row])
        return load_task_data(path, path).format_name

    assert found({**ALPACA[0], "text": "rendered"}) == "alpaca"
    assert found({**LMSYS[0], "text": "rendered"}) == "chat"
    assert found({**TABLE[0], **LMSYS[0], "text": "rendered"}) == "table"
    with pytest.raises(InputError, match=r"one of alpaca, dolly where the columns fit several"):
        found({**ALPACA[0], **DOLLY[0]})
    with pytest.raises(InputError, match=r"alpaca, dolly, .*fit no known format.*instruct, output"):
        found({"instruct": "a", "output": "b"})


def test_conversations_need_a_chat_template(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", TRL)
    with pytest.raises(InputError, match="no chat template"):
        encode(PLAIN, load_task_data(path, path).train, LIMIT)


def test_a_clients_own_file_has_the_same_formats(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write(path, ALPACA)
    own = load_client_data(path, SourceOptions("alpaca"))
    assert own == load_task_data(str(path), str(path)).train
