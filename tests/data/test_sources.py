"""Sources by path, folder and hub name: what they become, and how they refuse."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airtune.data.partition import column_values
from airtune.data.sources import SourceOptions, load_task_data, overlap_notice, refuse_training_rows
from airtune.data.tasks import FINAL_NUMBER, LABEL_ACCURACY, SLOTS_REALISED
from airtune.errors import InputError


def _jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _csv(path: Path, rows: list[list[str]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return str(path)


def _gsm8k(count: int) -> list[dict[str, str]]:
    return [
        {"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n" * (n % 9) + f"#### {n}"}
        for n in range(count)
    ]


def test_gsm8k_labels_are_answer_lines_from_one_to_eight(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "train.jsonl", _gsm8k(10))
    data = load_task_data(path, path)
    assert data.format_name == "gsm8k"
    assert data.score is FINAL_NUMBER
    assert [example.label for example in data.train] == list("1123456781")
    assert data.train[3].completion == "3 + 1 = 4\n3 + 1 = 4\n3 + 1 = 4\n#### 3"
    assert data.notice == ""


def test_e2e_slots_and_label(tmp_path: Path) -> None:
    mr = "name[The Vaults], eatType[pub], food[Fast food], customer rating[5 out of 5], "
    mr += "priceRange[more than £ 30], familyFriendly[yes], near[Café Adriatic]"
    path = _csv(tmp_path / "train.csv", [["mr", "ref"], [mr, "a"], ["name[X]", "b"]])
    data = load_task_data(path, path)
    first, second = data.train
    assert data.score is SLOTS_REALISED
    assert (first.label, second.label) == ("Fast food", "none")
    assert [slot.name for slot in first.slots] == [
        "name",
        "eatType",
        "food",
        "customer rating",
        "priceRange",
        "familyFriendly",
        "near",
    ]
    said = "The Vaults , a pub near Café Adriatic , serves fast food for more than £30 . "
    said += "It is kid friendly with 5 stars ."
    assert SLOTS_REALISED.of(first, said) == 1
    assert SLOTS_REALISED.of(first, said.replace("kid", "not kid")) == pytest.approx(6 / 7)
    odd = _csv(tmp_path / "odd.csv", [["mr", "ref"], ["familyFriendly[1 of 2]", "a"]])
    (slot,) = load_task_data(odd, odd).train[0].slots
    assert slot.accepted == ("1 of 2",)
    assert column_values(data.train, "near") == ["Café Adriatic", ""]


def _yahoo_rows(count: int) -> list[list[str]]:
    return [[str(n % 10 + 1), f"title {n}", "a\\nb", f'an "answer", {n}'] for n in range(count)]


def test_yahoo_has_no_header_and_the_class_name_is_the_answer(tmp_path: Path) -> None:
    path = _csv(tmp_path / "train.csv", _yahoo_rows(20))
    data = load_task_data(path, path)
    assert len(data.train) == 20
    assert data.score is LABEL_ACCURACY
    assert data.train[5].completion == data.train[5].label == "Sports"
    # What is cut from the left is the answer; the question stays.
    assert data.train[0].prompt == 'an "answer", 0\ntitle 0\na\nb'
    assert data.separator == "\nTopic: "


def test_yahoo_with_a_header_and_from_the_hub(tmp_path: Path) -> None:
    header = ["class", "title", "content", "best_answer"]
    path = _csv(tmp_path / "train.csv", [header, *_yahoo_rows(3)])
    named = load_task_data(path, path).train
    hub = [
        {
            "topic": n,
            "question_title": f"title {n}",
            "question_content": "a\\nb",
            "best_answer": f'an "answer", {n}',
        }
        for n in range(3)
    ]
    path = _jsonl(tmp_path / "hub.jsonl", hub)
    other = load_task_data(path, path).train
    assert [e.prompt for e in named] == [e.prompt for e in other]
    assert [e.label for e in named] == [e.label for e in other]


def test_any_two_columns(tmp_path: Path) -> None:
    rows = [{"ask": f"q{n}", "say": n, "label": f"l{n % 2}", "user": f"u{n}"} for n in range(4)]
    path = _jsonl(tmp_path / "rows.jsonl", rows)
    options = SourceOptions(prompt_column="ask", completion_column="say")
    data = load_task_data(path, path, options)
    assert [(e.prompt, e.completion, e.label) for e in data.train[:2]] == [
        ("q0", "0", "l0"),
        ("q1", "1", "l1"),
    ]
    assert column_values(data.train, "user") == ["u0", "u1", "u2", "u3"]
    assert data.score is None


def test_prompt_and_completion_need_no_names(tmp_path: Path) -> None:
    path = _csv(tmp_path / "x.csv", [["prompt", "completion"], ["p", "c"]])
    assert load_task_data(path, path).train[0].completion == "c"


@pytest.mark.parametrize(
    ("train", "test"), [("train.jsonl", "test.jsonl"), ("trainset.csv", "devset.csv")]
)
def test_a_folder_with_both_parts(tmp_path: Path, train: str, test: str) -> None:
    for name, prompt in ((train, "train"), (test, "test")):
        rows = [{"prompt": prompt, "completion": "c"}]
        if name.endswith("jsonl"):
            _jsonl(tmp_path / name, rows)
        else:
            _csv(tmp_path / name, [["prompt", "completion"], [prompt, "c"]])
    data = load_task_data(str(tmp_path))
    assert [e.prompt for e in data.train] == ["train"]
    assert [e.prompt for e in data.test] == ["test"]
    named = load_task_data(str(tmp_path), str(tmp_path))
    assert named == data


def test_a_tenth_is_held_out_by_prompt_whatever_the_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n // 3}", "completion": f"c{n}"} for n in range(300)]
    data = load_task_data(_jsonl(tmp_path / "a.jsonl", rows))
    held_out = {example.prompt for example in data.test}
    assert len(held_out) == 10
    assert len(data.test) == 30
    assert len(data.train) == 270
    assert not held_out & {example.prompt for example in data.train}
    assert "10" in data.notice
    reverse = load_task_data(_jsonl(tmp_path / "b.jsonl", rows[::-1]))
    assert {example.prompt for example in reverse.test} == held_out


def test_a_tiny_source_still_has_a_test_row(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(3)]
    data = load_task_data(_jsonl(tmp_path / "a.jsonl", rows))
    assert (len(data.train), len(data.test)) == (2, 1)


def test_limits_draw_rows_at_random_and_keep_their_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n:04}", "completion": "c"} for n in range(1000)]
    path = _jsonl(tmp_path / "a.jsonl", rows)
    options = SourceOptions(train_limit=100, test_limit=7)
    data = load_task_data(path, path, options, seed=1)
    prompts = [example.prompt for example in data.train]
    assert len(prompts) == 100
    assert len(data.test) == 7
    assert prompts == sorted(prompts)
    assert prompts[50] != "0050"
    assert load_task_data(path, path, options, seed=1) == data
    assert load_task_data(path, path, options, seed=2) != data
    generous = SourceOptions(train_limit=5000)
    assert len(load_task_data(path, path, generous).train) == 1000


def test_a_byte_order_mark_and_empty_lines_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffprompt,completion\n\np,c\n", encoding="utf-8")
    assert load_task_data(str(path), str(path)).train[0].prompt == "p"
    lines = tmp_path / "a.jsonl"
    lines.write_text('\n{"prompt": "p", "completion": "c"}\n\n')
    assert len(load_task_data(str(lines), str(lines)).train) == 1


_GOOD = '{"prompt": "p", "completion": "c"}\n'
REFUSALS = [
    ("a.jsonl", '{"prompt": "p", "completion": "c"}\n{"prompt": \n', ["a.jsonl, line 2", "column"]),
    ("a.jsonl", "[1, 2]\n", ["a.jsonl, line 1", "JSON list"]),
    ("a.jsonl", '{"prompt": "p", "completion": "c"}\n{"prompt": "p"}', ["line 2", "'completion'"]),
    ("a.jsonl", '{"prompt": "p", "completion": null}', ["line 1", "text in column 'completion'"]),
    ("a.jsonl", '{"prompt": ["p"], "completion": "c"}', ["line 1", "text in column 'prompt'"]),
    ("a.jsonl", '{"question": "q", "answer": "12"}', ["line 1", "'answer'", "####"]),
    ("a.jsonl", '{"x": "q", "y": "12"}', ["x, y", "data.prompt_column"]),
    ("a.jsonl", '{"mr": "a[b]", "ref": "r", "prompt": "p", "completion": "c"}', ["e2e, table"]),
    ("a.jsonl", "", ["empty file"]),
    ("a.csv", "", ["empty file"]),
    ("a.csv", "prompt,completion\np,c\np,c,d\n", ["a.csv, line 3", "3 cells", "2 cells"]),
    ("a.csv", 'prompt,completion\np,"c\n', ["a.csv, line", "not csv"]),
    ("a.csv", "mr,ref\nno slots,r\n", ["line 2", "'mr'", "name[value]"]),
    ("a.csv", "1,t,c,a\n11,t,c,a\n", ["line 2", "'class'", "1 to 10"]),
    ("a.csv", "prompt,completion,prompt\np,c,q\n", ["a.csv", "'prompt'", "rename"]),
    ("a.csv", "prompt,x,completion, x\np,1,c,2\n", ["a.csv", "'x'", "rename"]),
    ("a.jsonl", '{"prompt": "p", "completion": "c", "prompt": "q"}', ["line 1", "'prompt' twice"]),
    ("a.txt", "prompt", [".jsonl, .json, .csv, .tsv or .parquet"]),
    ("a.jsonl", _GOOD + '{"prompt": "p", "completion": NaN}', ["line 2", "NaN"]),
    ("a.jsonl", _GOOD + '{"prompt": "p", "completion": -Infinity}', ["line 2", "-Infinity"]),
    ("a.jsonl", _GOOD + '{"prompt": 1e999, "completion": "c"}', ["line 2", "'prompt'"]),
    ("a.jsonl", _GOOD + '{"prompt": "p", "completion": true}', ["line 2", "'completion'", "true"]),
    ("a.jsonl", _GOOD + '{"prompt": false, "completion": "c"}', ["line 2", "'prompt'", "false"]),
    ("a.jsonl", _GOOD + '{"prompt": "p", "completion": null}', ["line 2", "'completion'"]),
    ("a.jsonl", _GOOD + '{"prompt": ["p"], "completion": "c"}', ["line 2", "'prompt'"]),
    ("a.jsonl", _GOOD + '{"prompt": ' + "9" * 5000 + ', "completion": "c"}', ["line 2"]),
    ("a.jsonl", _GOOD + "[" * 100_000, ["line 2"]),
    ("a.jsonl", _GOOD + r'{"prompt": "a\ud83d", "completion": "c"}', ["line 2", r"'\ud83d'"]),
    ("a.jsonl", _GOOD + r'{"prompt": "p", "completion": "c", "id": "\udc00"}', ["line 2", "'id'"]),
    ("a.jsonl", '{"question": "q", "answer": "1 + 1\\n#### "}', ["line 1", "'answer'", "number"]),
    ("a.jsonl", '{"question": "q", "answer": "it is #### soon"}', ["line 1", "number"]),
    ("a.jsonl", '{"prompt": [{"role": "user"}], "completion": []}', ["line 1", "without a text"]),
    ("a.jsonl", '{" prompt": "p", "completion": "c"}', ["' prompt', completion"]),
    ("a.csv", "mr,ref\nname[A] pub,r\n", ["line 2", "'mr'"]),
    ("a.csv", "mr,ref\nname[ ],r\n", ["line 2", "'mr'"]),
    ("a.csv", "mr,ref\n" + "name[A],   " * 3 + " " * 20_000 + ",r\n", ["line 2"]),
    ("a.csv", "1,t,c,a\n\u00b2,t,c,a\n", ["line 2", "'class'"]),
    ("a.csv", "\u00b2,t,c,a\n", ["a.csv", "fit no known format"]),
]


@pytest.mark.parametrize(("name", "text", "words"), REFUSALS)
def test_refusals_name_file_line_and_column(
    tmp_path: Path, name: str, text: str, words: list[str]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_task_data(str(path), str(path))
    message = str(caught.value)
    assert "\n" not in message.strip()
    for word in words:
        assert word.replace("'a.jsonl", "a.jsonl") in message


def test_a_test_file_is_asked_for_the_columns_that_were_named(tmp_path: Path) -> None:
    train = _jsonl(tmp_path / "a.jsonl", [{"q": "p", "a": "c"}])
    test = _jsonl(tmp_path / "b.jsonl", [{"q": "p", "b": "c"}])
    options = SourceOptions(prompt_column="q", completion_column="a")
    with pytest.raises(InputError, match=r"b\.jsonl is without a column 'a', .* columns q, a: it"):
        load_task_data(train, test, options)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,completion\np,\xff\xfe\n")
    with pytest.raises(InputError, match=r"a\.csv, line 2 \(not UTF-8\)"):
        load_task_data(str(path), str(path))
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"prompt": "p", "completion": "c"}\n' * 40 + "{é".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.jsonl, line 41 \(not UTF-8\)"):
        load_task_data(str(lines), str(lines))


def test_numbers_and_flags_beside_the_texts_stay_usable(tmp_path: Path) -> None:
    rows = [{"prompt": n / 4, "completion": n, "label": n % 2 == 0} for n in range(4)]
    path = _jsonl(tmp_path / "a.jsonl", rows)
    train = load_task_data(path, path).train
    assert [(e.prompt, e.completion, e.label) for e in train[:2]] == [
        ("0.0", "0", "true"),
        ("0.25", "1", "false"),
    ]


_TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": [{"type": "text", "text": "2"}]},
]


@pytest.mark.parametrize("chat_format", [None, "chat"])
def test_conversations_in_both_spellings(tmp_path: Path, chat_format: str | None) -> None:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    texts = [turn["content"] if isinstance(turn["content"], str) else "2" for turn in _TURNS]
    other = [
        {"from": names[str(t["role"])], "value": text}
        for t, text in zip(_TURNS, texts, strict=True)
    ]
    options = SourceOptions(chat_format)
    for name, row in (("a", {"messages": _TURNS, "label": "x"}), ("b", {"conversations": other})):
        path = _jsonl(tmp_path / f"{name}.jsonl", [row, {**row, name: 1}])
        data = load_task_data(path, path, options)
        assert data.format_name == "chat"
        (example, _) = data.train
        assert [turn.role for turn in example.turns] == [t["role"] for t in _TURNS]
        assert [turn.content for turn in example.turns] == texts
        assert (example.prompt, example.completion) == ("Be brief.\none?\n1\ntwo?", "2")
    single = _jsonl(tmp_path / "c.jsonl", [{"messages": _TURNS[1:3]}] * 2)
    assert load_task_data(single, single).train[0].turns == ()


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([], "a list of turns"),
        ("hi", "without a text"),
        (["hi"], "each with role and content"),
        ([*_TURNS, {"role": "user", "content": "bye"}], "ends in an answer"),
        (_TURNS[2:3], "begins with the user"),
        ([*_TURNS[1:3], *_TURNS], "a system turn in it"),
        ([{"role": "tool", "content": "x"}], "role 'tool'"),
        ([_TURNS[1], {"role": "assistant", "tool_calls": [1]}], "tool_calls"),
        ([_TURNS[1], {"role": "assistant", "content": None}], "content is a text"),
        ([_TURNS[1], {"role": "assistant", "content": [{"type": "image"}]}], "content is a text"),
    ],
)
def test_conversations_that_are_refused(tmp_path: Path, turns: Any, words: str) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [{"messages": _TURNS}, {"messages": turns}])
    if turns == "hi":
        turns, words = [], "a list of turns"
    with pytest.raises(InputError) as caught:
        load_task_data(path, path)
    assert "a.jsonl, line 2, column 'messages'" in str(caught.value)
    assert words in str(caught.value)


def test_the_test_set_must_not_be_the_training_set(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(6)]
    train = _jsonl(tmp_path / "train.jsonl", rows)
    link, copy = tmp_path / "link.jsonl", tmp_path / "copy.jsonl"
    link.symlink_to(train)
    copy.write_bytes(Path(train).read_bytes())
    table = _csv(tmp_path / "part.csv", [["prompt", "completion"], ["p4", "c"], ["p1", "c"]])
    for test in (train, f"{tmp_path}/./train.jsonl", link, copy, table, str(tmp_path)):
        task = load_task_data(train, str(test))
        with pytest.raises(InputError, match=r"data\.test is"):
            refuse_training_rows(train, str(test), task)
    other = _jsonl(tmp_path / "other.jsonl", [rows[0], {"prompt": "new", "completion": "c"}])
    task = load_task_data(train, other)
    refuse_training_rows(train, other, task)
    assert overlap_notice(task) == "1 of 2 test rows are training rows, too."
    held_out = load_task_data(train)
    refuse_training_rows(train, None, held_out)
    assert overlap_notice(held_out) == ""
    refuse_training_rows("builtin", "builtin", load_task_data("builtin", "builtin"))


@pytest.mark.parametrize(
    ("train", "options", "words"),
    [
        ("nowhere.jsonl", SourceOptions(), "nowhere.jsonl"),
        ("./nowhere", SourceOptions(), "nowhere"),
        ("what is this?", SourceOptions(), "owner/name"),
        ("builtin:poems", SourceOptions(), "builtin:slots or builtin:arithmetic"),
        ("builtin", SourceOptions(train_limit=0), "data.train_limit"),
        ("builtin", SourceOptions(test_limit=-1), "data.test_limit"),
    ],
)
def test_names_that_are_refused(train: str, options: SourceOptions, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_task_data(train, None, options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SourceOptions("gsm9k"), "yahoo_topics, alpaca, dolly, text, table, chat: did you mean"),
        (SourceOptions("poems"), "one of gsm8k, e2e, yahoo, yahoo_topics, alpaca, dolly, text,"),
        (SourceOptions("columns"), "table"),
        (SourceOptions("chat"), "'messages'"),
        (SourceOptions("e2e"), "'mr'"),
        (SourceOptions(prompt_column="prompt"), "data.completion_column"),
        (SourceOptions(completion_column="completion"), "data.prompt_column"),
        (SourceOptions("e2e", "prompt", "completion"), "data.format"),
        (SourceOptions("table", "prompt", "reply"), "'reply'"),
    ],
)
def test_formats_that_do_not_fit(tmp_path: Path, options: SourceOptions, words: str) -> None:
    path = _csv(tmp_path / "x.csv", [["prompt", "completion"], ["p", "c"]])
    with pytest.raises(InputError) as caught:
        load_task_data(path, path, options)
    assert words in str(caught.value)


def test_an_explicit_format_settles_what_is_ambiguous(tmp_path: Path) -> None:
    row = {"mr": "a[b]", "ref": "r", "prompt": "p", "completion": "c"}
    path = _jsonl(tmp_path / "a.jsonl", [row])
    assert load_task_data(path, path, SourceOptions("e2e")).train[0].completion == "r"
    assert load_task_data(path, path, SourceOptions("table")).train[0].completion == "c"


def test_train_and_test_must_agree(tmp_path: Path) -> None:
    train = _jsonl(tmp_path / "a.jsonl", _gsm8k(2))
    test = _csv(tmp_path / "b.csv", [["mr", "ref"], ["a[b]", "r"]])
    with pytest.raises(InputError, match=r"b\.csv"):
        load_task_data(train, test)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.jsonl"):
        load_task_data(str(tmp_path))
    _jsonl(tmp_path / "train.jsonl", _gsm8k(2))
    _csv(tmp_path / "train.csv", [["prompt", "completion"]])
    with pytest.raises(InputError, match="name one file"):
        load_task_data(str(tmp_path))


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c"}] * 5)
    with pytest.raises(InputError, match=r"give data\.test"):
        load_task_data(path)


def test_builtin_takes_no_other_test_part() -> None:
    with pytest.raises(InputError, match=r"data\.test"):
        load_task_data("builtin:slots", "builtin:arithmetic")


class _Split(list[dict[str, Any]]):
    """What airtune uses of a split of the `datasets` library."""

    @property
    def column_names(self) -> list[str]:
        return list(self[0])


def _fake_hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, _Split]) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(*arguments: Any) -> dict[str, _Split]:
        calls.append(arguments)
        if not splits:
            raise FileNotFoundError("Dataset 'x/y' doesn't exist on the Hub")
        return splits

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_a_hub_name_goes_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = _Split(_gsm8k(4)), _Split(_gsm8k(2))
    calls = _fake_hub(monkeypatch, {"train": train, "test": test})
    data = load_task_data("openai/gsm8k:main")
    assert calls == [("openai/gsm8k", "main")]
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.format_name == "gsm8k"


def test_a_hub_data_set_without_a_test_part_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_hub(monkeypatch, {"train": _Split(_gsm8k(40))})
    data = load_task_data("some/set")
    assert (len(data.train), len(data.test)) == (36, 4)
    assert "some/set" in data.notice


def test_hub_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_hub(monkeypatch, {})
    with pytest.raises(InputError, match="doesn't exist"):
        load_task_data("x/y")
    _fake_hub(monkeypatch, {"all": _Split(_gsm8k(2))})
    with pytest.raises(InputError, match="splits all"):
        load_task_data("x/y")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"airtune\[hub\]"):
        load_task_data("x/y")


def test_a_file_that_is_not_there_is_named_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gsm8k/train.jsonl", "rows.csv", "rows.parquet", "rows.json.gz"):
        with pytest.raises(InputError) as caught:
            load_task_data(name)
        shown = (
            f"data.train is {name}, but it must be a file that exists: {tmp_path} has no such file."
        )
        assert str(caught.value) == shown
    with pytest.raises(InputError, match="a file that exists: check the path"):
        load_task_data(str(tmp_path / "rows.csv"))
