"""The built-in tasks: slots to a sentence, and word problems; no prompt is in both parts.

(a) Slots to a sentence, in the manner of E2E, on our own words and templates. (b) Short word
problems with worked answers that end in `#### n`.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from airtune.data.builtin_words import (
    AREAS,
    CONTAINERS,
    EXHIBITS,
    FOODS,
    GOODS,
    LANDMARKS,
    NAME_ADJECTIVES,
    NAME_NOUNS,
    PEOPLE,
    PLAYS,
    SIGHTS,
    THINGS,
    VIEWS,
    Draw,
    Person,
)
from airtune.data.tasks import Example, Slot
from airtune.seeds import generator

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


@dataclass(frozen=True)
class Kind:
    """A kind of venue. `openings` take {name} and {where}, `offer_phrases` take {offer}."""

    name: str
    offer_slot: str
    offers: tuple[str, ...]
    openings: tuple[str, ...]
    offer_phrases: tuple[str, ...]


KINDS = (
    Kind(
        "cafe",
        "food",
        tuple(FOODS),
        (
            "{name} is a cafe {where}",
            "{name} is a friendly cafe {where}",
            "if you are hungry, try the cafe {name} {where}",
        ),
        (
            "it serves {offer}",
            "the kitchen is known for {offer}",
            "people come for the {offer}",
            "{offer} is on the menu",
        ),
    ),
    Kind(
        "hotel",
        "view",
        tuple(VIEWS),
        (
            "{name} is a hotel {where}",
            "guests sleep well at the hotel {name} {where}",
            "the hotel {name} stands {where}",
        ),
        (
            "its rooms look out on {offer}",
            "every window has a view of {offer}",
            "you wake up with {offer} before you",
        ),
    ),
    Kind(
        "museum",
        "shows",
        tuple(EXHIBITS),
        (
            "{name} is a museum {where}",
            "the museum {name} can be visited {where}",
            "{name} is the museum to see {where}",
        ),
        (
            "it shows {offer}",
            "its rooms are full of {offer}",
            "visitors can look at {offer}",
            "the collection holds {offer}",
        ),
    ),
    Kind(
        "shop",
        "sells",
        tuple(GOODS),
        (
            "{name} is a shop {where}",
            "{where} there is a shop called {name}",
            "the shop {name} has its door {where}",
        ),
        (
            "it sells {offer}",
            "you can buy {offer} there",
            "it has {offer} of every kind",
        ),
    ),
    Kind(
        "park",
        "sight",
        tuple(SIGHTS),
        (
            "{name} is a park {where}",
            "for a walk, go to the park {name} {where}",
            "{where} lies the park {name}",
        ),
        (
            "it has {offer}",
            "walkers like to stop at {offer}",
            "in the middle you will find {offer}",
        ),
    ),
    Kind(
        "theatre",
        "plays",
        tuple(PLAYS),
        (
            "{name} is a theatre {where}",
            "the theatre {name} opens its curtain {where}",
            "for an evening out, choose the theatre {name} {where}",
        ),
        (
            "it puts on {offer}",
            "the stage is used for {offer}",
            "you can see {offer} there",
        ),
    ),
)

WHERE_AREA = ("in the {area}", "in the part of town called the {area}")
WHERE_NEAR = ("near {near}", "close to {near}", "next to {near}")
WHERE_BOTH = ("in the {area} near {near}", "close to {near} in the {area}")
WHERE_NOWHERE = ("in town", "in this town")

PRICES = {
    "low": ("it is cheap", "it has low prices", "a visit costs little"),
    "medium": ("it has fair prices", "prices are moderate", "it asks average prices"),
    "high": ("it is expensive", "it has high prices", "a visit costs a lot"),
}
"""`price` values and their wordings; scoring accepts the words that distinguish the three."""

PRICE_WORDS = {
    "low": ("cheap", "low price", "costs little"),
    "medium": ("fair price", "moderate", "average price"),
    "high": ("expensive", "high price", "costs a lot"),
}

RATINGS = (
    "visitors rate it {rating} out of 5",
    "it is rated {rating} out of 5",
    "it has a rating of {rating} out of 5",
)

CHILDREN = {
    "yes": ("children are welcome", "the place welcomes children", "it is good for families"),
    "no": ("it is not for children", "it is for adults only", "it is no place for children"),
}
CHILDREN_WORDS = {
    "yes": ("children are welcome", "welcomes children", "good for families"),
    "no": ("not for children", "adults only", "no place for children"),
}


def slots_example(draw: Draw) -> Example:
    """One venue: `name[...], kind[...], ...` and the two to four sentences that realise all slots.

    The label is the kind of venue. Each kind has openings and wordings of its own, so clients that
    hold different kinds really see different text.
    """
    kind = draw.pick(KINDS)
    slots = _draw_slots(draw, kind)
    prompt = ", ".join(f"{slot.name}[{slot.value}]" for slot in slots)
    values = {slot.name: slot.value for slot in slots}
    return Example(prompt, _describe(draw, kind, values), kind.name, tuple(slots))


def _draw_slots(draw: Draw, kind: Kind) -> list[Slot]:
    name = f"The {draw.pick(NAME_ADJECTIVES)} {draw.pick(NAME_NOUNS)}"
    slots = [_verbatim("name", name), _verbatim("kind", kind.name)]
    slots.append(_verbatim(kind.offer_slot, draw.pick(kind.offers)))
    if draw.chance(0.7):
        slots.append(_verbatim("area", draw.pick(AREAS)))
    if draw.chance(0.6):
        slots.append(_verbatim("near", draw.pick(LANDMARKS)))
    if draw.chance(0.7):
        price = draw.pick(tuple(PRICE_WORDS))
        slots.append(Slot("price", price, PRICE_WORDS[price]))
    if draw.chance(0.7):
        stars = str(draw.integer(1, 5))
        slots.append(Slot("rating", stars, (f"{stars} out of 5",)))
    if draw.chance(0.5):
        answer, other = draw.sample(("yes", "no"), 2)
        words = CHILDREN_WORDS
        slots.append(Slot("children", answer, words[answer], words[other]))
    return slots


def _verbatim(name: str, value: str) -> Slot:
    return Slot(name, value, (value,))


def _describe(draw: Draw, kind: Kind, values: dict[str, str]) -> str:
    opening = draw.pick(kind.openings).format(name=values["name"], where=_where(draw, values))
    offer = draw.pick(kind.offer_phrases).format(offer=values[kind.offer_slot])
    sentences = [opening, offer]
    if "price" in values:
        _append(draw, sentences, draw.pick(PRICES[values["price"]]))
    if "rating" in values:
        sentences.append(draw.pick(RATINGS).format(rating=values["rating"]))
    if "children" in values:
        _append(draw, sentences, draw.pick(CHILDREN[values["children"]]))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _append(draw: Draw, sentences: list[str], clause: str) -> None:
    """A clause ends the sentence before it or stands alone."""
    if draw.chance(0.5):
        sentences[-1] += f", and {clause}"
    else:
        sentences.append(clause)


def _where(draw: Draw, values: dict[str, str]) -> str:
    if "area" in values and "near" in values:
        options: tuple[str, ...] = WHERE_BOTH
    elif "area" in values:
        options = WHERE_AREA
    elif "near" in values:
        options = WHERE_NEAR
    else:
        options = WHERE_NOWHERE
    return draw.pick(options).format(**{slot: values.get(slot, "") for slot in ("area", "near")})


BUILTIN_TASKS: dict[str, Callable[[Draw], Example]] = {
    "slots": slots_example,
    "arithmetic": arithmetic_example,
}
_TEST_ONE_IN = 8


def builtin_examples(task: str, part: str, count: int, seed: int) -> list[Example]:
    """`count` examples with different prompts, for `part` "train" or "test".

    A checksum of the prompt decides to which part it belongs, so that parts of any size and of any
    two seeds share no prompt. More examples with the same seed begin with the same ones.
    """
    make, wanted = BUILTIN_TASKS[task], {"train": False, "test": True}[part]
    draw = Draw(generator(seed, f"builtin/{task}/{part}"))
    seen: set[str] = set()

    def fresh() -> Example:
        while True:
            example = make(draw)
            is_test = zlib.crc32(example.prompt.encode()) % _TEST_ONE_IN == 0
            if is_test == wanted and example.prompt not in seen:
                seen.add(example.prompt)
                return example

    return list(islice(iter(fresh, None), count))
