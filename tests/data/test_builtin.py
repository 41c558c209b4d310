"""The generated tasks are right, disjoint in their parts, and unlike the pretraining text."""

import re
from collections import Counter
from itertools import islice, pairwise

import pytest

from airtune.data.builtin_tasks import BUILTIN_TASKS, LARGEST, builtin_examples
from airtune.data.builtin_words import Draw
from airtune.data.sources import SourceOptions, load_task_data
from airtune.data.tasks import FINAL_NUMBER, SLOTS_REALISED, final_number
from airtune.seeds import generator
from pretraining_text.mix import MIX, documents

COUNT = 400
# Not the end of a longer sum: a shopping list adds up three or four numbers.
_SUM = re.compile(r"(?<![\d+] )\b(\d+) ([-+*/]) (\d+) = (\d+)")


def _value(first: str, sign: str, second: str) -> float:
    a, b = int(first), int(second)
    return {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]


@pytest.mark.parametrize("task", BUILTIN_TASKS)
def test_parts_share_no_prompt_whatever_the_seed(task: str) -> None:
    train = {example.prompt for example in builtin_examples(task, "train", COUNT, 0)}
    assert len(train) == COUNT
    for seed in (0, 1):
        test = {example.prompt for example in builtin_examples(task, "test", COUNT, seed)}
        assert len(test) == COUNT
        assert not train & test


@pytest.mark.parametrize("task", BUILTIN_TASKS)
def test_more_examples_begin_with_the_same(task: str) -> None:
    few = builtin_examples(task, "train", 20, 5)
    assert builtin_examples(task, "train", 50, 5)[:20] == few
    assert builtin_examples(task, "train", 20, 6) != few


def test_builtin_is_slots_and_limits_are_counts() -> None:
    data = load_task_data("builtin", None, SourceOptions(train_limit=9, test_limit=4), 3)
    assert (len(data.train), len(data.test), data.score) == (9, 4, SLOTS_REALISED)
    same = load_task_data("builtin:slots", None, SourceOptions(train_limit=9, test_limit=4), 3)
    assert same.train == data.train
    sums = load_task_data("builtin:arithmetic", None, SourceOptions(None, None, None, 9, 4))
    assert sums.score is FINAL_NUMBER


def test_every_reference_realises_all_its_slots() -> None:
    for example in builtin_examples("slots", "train", COUNT, 0):
        assert SLOTS_REALISED.of(example, example.completion) == 1, example
        assert re.fullmatch(r"(\w+\[[^\]]+\], )+\w+\[[^\]]+\]", example.prompt)
        assert example.label in example.prompt


def test_slots_of_another_example_are_not_realised() -> None:
    examples = builtin_examples("slots", "train", COUNT, 0)
    shares = [SLOTS_REALISED.of(one, other.completion) for one, other in pairwise(examples)]
    assert sum(shares) / len(shares) < 0.35


def test_kinds_are_about_equally_frequent() -> None:
    labels = Counter(example.label for example in builtin_examples("slots", "train", 1200, 0))
    assert len(labels) == 6
    assert min(labels.values()) > 120


def test_every_answer_is_right_and_every_number_small() -> None:
    for example in builtin_examples("arithmetic", "train", COUNT, 0):
        *lines, last = example.completion.split("\n")
        assert example.label == str(len(lines))
        results: list[str] = []
        for line in lines:
            found = _SUM.match(line)
            assert found is not None, line
            assert _value(*found.groups()[:3]) == int(found[4])
            assert not results or found[1] == results[-1]
            results.append(found[4])
        assert last == f"#### {results[-1]}"
        assert final_number(example.completion) == int(results[-1])
        assert all(0 < int(number) <= LARGEST for number in re.findall(r"\d+", example.completion))


def test_the_numbers_worked_with_stand_in_the_problem() -> None:
    for example in builtin_examples("arithmetic", "train", COUNT, 0):
        told = set(re.findall(r"\d+", example.prompt)) | {"2"}
        assert {match[2] for match in _SUM.findall(example.completion)} <= told


def test_arithmetic_has_one_to_four_lines() -> None:
    labels = Counter(example.label for example in builtin_examples("arithmetic", "train", 800, 0))
    assert set(labels) == set("1234")
    assert min(labels.values()) > 80


def _corpus(count: int) -> list[str]:
    return list(islice(documents(Draw(generator(0, "test corpus"))), count))


def test_pretraining_text_has_neither_task_form() -> None:
    for text in _corpus(4000):
        assert "####" not in text
        assert not re.search(r"\w\[[^\]]+\], \w+\[", text), text
    answers = {
        sentence
        for example in builtin_examples("slots", "train", COUNT, 0)
        for sentence in example.completion.split(". ")[:1]
    }
    written = "\n".join(_corpus(4000))
    assert sum(answer in written for answer in answers) < 0.02 * len(answers)


def test_sums_in_the_pretraining_text_are_right() -> None:
    found = [match for text in _corpus(4000) for match in _SUM.findall(text)]
    assert len(found) > 1000
    assert all(_value(*match[:3]) == int(match[3]) for match in found)


def test_the_mix_is_as_stated() -> None:
    draw = Draw(generator(0, "test mix"))
    kinds = list(MIX)
    assert sum(MIX.values()) == pytest.approx(1)
    assert all(kind(draw).strip() for kind in kinds)


def test_draws_are_in_range_and_cover_it() -> None:
    draw = Draw(generator(0, "test draw"))
    numbers = Counter(draw.integer(3, 6) for _ in range(4000))
    assert set(numbers) == {3, 4, 5, 6}
    assert min(numbers.values()) > 850
    assert Counter(draw.chance(0.25) for _ in range(4000))[True] == pytest.approx(1000, abs=120)
    sample = draw.sample("abcdef", 6)
    assert sorted(sample) == list("abcdef")
    assert {draw.pick("ab") for _ in range(50)} == {"a", "b"}


def test_the_tasks_use_words_of_the_pretraining_text() -> None:
    """The base must learn a form, not a vocabulary: few words of the tasks may be new to it."""
    known = Counter(word for text in _corpus(6000) for word in re.findall(r"[A-Za-z]+", text))
    for task in BUILTIN_TASKS:
        examples = builtin_examples(task, "train", COUNT, 0)
        text = " ".join(f"{example.prompt} {example.completion}" for example in examples)
        words = Counter(re.findall(r"[A-Za-z]+", text))
        new = sum(count for word, count in words.items() if known[word] < 3)
        assert new < 0.02 * words.total(), sorted(set(words) - set(known))
