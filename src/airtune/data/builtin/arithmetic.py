"""Built-in task (b): short word problems with worked answers that end in `#### n`."""

from collections.abc import Callable
from dataclasses import dataclass

from airtune.data.builtin.words import CONTAINERS, PEOPLE, THINGS, Draw, Person
from airtune.data.tasks import Example

LARGEST = 99
"""No number in a problem or its answer is larger: a small model can learn to be right on them."""


@dataclass
class _Story:
    """A problem under construction: person, things, count, and its sentences and steps so far."""

    draw: Draw
    person: Person
    thing: list[str]
    total: int
    told: list[str]
    worked: list[str]

    def noun(self, count: int) -> str:
        return self.thing[0] if count == 1 else self.thing[1]

    def work(self, sign: str, other: int, result: int) -> None:
        """One line of the answer: the sum in figures, with the thing counted."""
        self.worked.append(f"{self.total} {sign} {other} = {result} {self.noun(result)}")
        self.total = result


def arithmetic_example(draw: Draw) -> Example:
    """One problem of one to four steps; the label is the number of answer lines before `####`."""
    story = _Story(draw, draw.pick(PEOPLE), draw.pick(THINGS), draw.integer(2, 30), [], [])
    steps = draw.integer(1, 4)
    containers = steps > 1 and draw.chance(0.4)
    if containers or draw.chance(0.2):
        _start_with_containers(story)
        steps -= 1
    else:
        _start(story)
    for _ in range(steps):
        draw.pick(_possible_steps(story))(story)
    question = draw.pick(_QUESTIONS).format(
        name=story.person.name, things=story.thing[1], subject=story.person.subject
    )
    answer = "\n".join([*story.worked, f"#### {story.total}"])
    return Example(f"{' '.join(story.told)} {question}", answer, str(len(story.worked)))


_QUESTIONS = (
    "How many {things} does {name} have now?",
    "How many {things} does {subject} have in the end?",
    "How many {things} are left with {name}?",
)


def _start(story: _Story) -> None:
    count = f"{story.total} {story.noun(story.total)}"
    told = story.draw.pick(("{} has {}.", "{} starts the day with {}.", "{} owns {}."))
    story.told.append(told.format(story.person.name, count))


def _start_with_containers(story: _Story) -> None:
    draw = story.draw
    boxes, each = draw.integer(2, 9), draw.integer(2, 9)
    container = draw.pick(CONTAINERS)
    told = draw.pick(
        (
            "{} has {} {} with {} {} in each.",
            "{} fills {} {} with {} {} each.",
        )
    )
    story.told.append(told.format(story.person.name, boxes, container[1], each, story.thing[1]))
    story.total = boxes
    story.work("*", each, boxes * each)


def _gain(story: _Story) -> None:
    more = story.draw.integer(1, min(30, LARGEST - story.total))
    told = story.draw.pick(("{} buys {} more.", "{} finds {} more.", "Then {} gets {} more."))
    story.told.append(told.format(_subject(story, told), more))
    story.work("+", more, story.total + more)


def _loss(story: _Story) -> None:
    fewer = story.draw.integer(1, min(30, story.total - 1))
    told = story.draw.pick(("{} loses {}.", "{} gives away {}.", "{} sells {}."))
    story.told.append(told.format(_subject(story, told), fewer))
    story.work("-", fewer, story.total - fewer)


def _double(story: _Story) -> None:
    story.told.append(f"A friend doubles the {story.thing[1]}.")
    story.work("*", 2, story.total * 2)


def _halve(story: _Story) -> None:
    story.told.append(f"{_subject(story, '{}')} keeps only half of the {story.thing[1]}.")
    story.work("/", 2, story.total // 2)


def _subject(story: _Story, told: str) -> str:
    subject = story.person.subject
    return subject.capitalize() if told.startswith("{}") else subject


def _possible_steps(story: _Story) -> list[Callable[[_Story], None]]:
    steps: list[Callable[[_Story], None]] = []
    if story.total < LARGEST:
        steps += [_gain, _gain]
    if story.total > 1:
        steps += [_loss, _loss]
    if 1 < story.total <= LARGEST // 2:
        steps.append(_double)
    if story.total > 2 and story.total % 2 == 0:
        steps.append(_halve)
    return steps
