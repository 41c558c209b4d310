"""Pretraining text that tells something: stories, counting stories, dialogues, notes on a town."""

from airtune.data.builtin.draw import Draw
from airtune.data.builtin.words import (
    AREAS,
    COLOURS,
    CONTAINERS,
    DAYS,
    EXHIBITS,
    FEELINGS,
    FOODS,
    GOODS,
    HOBBIES,
    LANDMARKS,
    NAME_ADJECTIVES,
    NAME_NOUNS,
    PEOPLE,
    PLAYS,
    SIGHTS,
    SIZES,
    THINGS,
    VIEWS,
    WEATHER,
    Person,
)

_PLACES = ("in the garden", "in the kitchen", "at school", "at home", "under the table")


def story(draw: Draw) -> str:
    """Somebody loses a thing, looks for it and is helped; what was said once stays true."""
    hero, friend = draw.sample(PEOPLE, 2)
    thing = draw.pick(THINGS)[0]
    looks = f"{draw.pick(SIZES)} {draw.pick(COLOURS)} {thing}"
    place = draw.pick((*_PLACES, *(f"near {landmark}" for landmark in LANDMARKS)))
    feeling = draw.pick(FEELINGS)
    sentences = [
        draw.pick(
            (
                f"On {draw.pick(DAYS)} it was {draw.pick(WEATHER)}.",
                f"It was a {draw.pick(WEATHER)} day.",
                f"One {draw.pick(WEATHER)} {draw.pick(DAYS)} {hero.name} went out.",
            )
        ),
        draw.pick(
            (
                f"{hero.name} had a {looks}, and {hero.subject} liked it very much.",
                f"{hero.name} looked for {hero.possessive} {looks}.",
                f"{hero.name} wanted to show {friend.name} {hero.possessive} {looks}.",
            )
        ),
        draw.pick(
            (
                f"But the {thing} was gone, and {hero.subject} felt {feeling}.",
                f'"Where is my {thing}?" asked {hero.name}. {_upper(hero.subject)} was {feeling}.',
            )
        ),
        draw.pick(
            (
                f"{friend.name} found the {thing} {place}.",
                f"Then {friend.name} saw it {place} and gave it to {hero.object}.",
                f'"It is {place}," said {friend.name}.',
            )
        ),
        draw.pick(
            (
                f"{hero.name} thanked {friend.name}, and they ate {draw.pick(FOODS)}.",
                f"So {hero.name} had the {looks} again.",
                f"In the end {hero.name} was {draw.pick(FEELINGS)} and {friend.name} was "
                f"{draw.pick(FEELINGS)}.",
            )
        ),
    ]
    return " ".join(sentences)


def counting_story(draw: Draw) -> str:
    """A story in the past tense in which the number of things is right after each change."""
    person, (one, many) = draw.pick(PEOPLE), draw.pick(THINGS)
    total = draw.integer(1, 40)
    sentences = [f"{person.name} had {total} {one if total == 1 else many}."]
    for _ in range(draw.integer(1, 3)):
        if total > 2 and draw.chance(0.5):
            change = draw.integer(1, min(30, total - 1))
            total -= change
            what = draw.pick((f"dropped {change}", f"ate {change}", f"gave {change} to a friend"))
        else:
            change = draw.integer(1, 30)
            total += change
            what = draw.pick((f"picked {change} more", f"was given {change}", f"found {change}"))
        told = draw.pick(
            (
                f"{_upper(person.subject)} {what}, so there were {total}.",
                f"{_upper(person.subject)} {what}, and {total} was the new count.",
            )
        )
        sentences.append(told)
    if draw.chance(0.3):
        box, boxes = draw.pick(CONTAINERS)
        count, each = draw.integer(2, 9), draw.integer(2, 9)
        sentences.append(
            f"There were also {count} {boxes}, every {box} held {each} {many}, "
            f"which makes {count * each} together."
        )
    return " ".join(sentences)


def dialogue(draw: Draw) -> str:
    """Two people ask and answer; the second answer depends on the first."""
    first, second = draw.sample(PEOPLE, 2)
    thing, place = draw.pick(THINGS)[0], draw.pick((*_PLACES, *LANDMARKS))
    colour, food = draw.pick(COLOURS), draw.pick(FOODS)
    where = place if place in _PLACES else f"near {place}"
    count = draw.integer(2, 30)
    exchanges = draw.sample(
        (
            (f"Where is the {colour} {thing}?", f"The {colour} {thing} is {where}."),
            ("What would you like to eat?", f"I would like {food}, please."),
            (f"How old are you, {second.name}?", f"I am {count}, and next year {count + 1}."),
            (f"Do you like {draw.pick(HOBBIES)}?", draw.pick(("Yes, I do.", "No, not at all."))),
            (f"Is {food} expensive here?", draw.pick(("No, it is cheap.", "Yes, it costs a lot."))),
            ("When do we meet?", f"On {draw.pick(DAYS)} {where}."),
        ),
        draw.integer(2, 3),
    )
    lines = []
    for question, answer in exchanges:
        lines += [f"{first.name}: {question}", f"{second.name}: {answer}"]
    return "\n".join(lines)


def town_note(draw: Draw) -> str:
    """A visit to a place in town, told by a guest; it shares words with the slots task only."""
    guest: Person = draw.pick(PEOPLE)
    name = f"The {draw.pick(NAME_ADJECTIVES)} {draw.pick(NAME_NOUNS)}"
    area, landmark = draw.pick(AREAS), draw.pick(LANDMARKS)
    kind, seen = draw.pick(
        (
            ("cafe", f"ate {draw.pick(FOODS)}"),
            ("hotel", f"looked out at {draw.pick(VIEWS)}"),
            ("museum", f"looked at {draw.pick(EXHIBITS)}"),
            ("shop", f"wanted to buy {draw.pick(GOODS)}"),
            ("park", f"sat by {draw.pick(SIGHTS)}"),
            ("theatre", f"saw one of the {draw.pick(PLAYS)}"),
        )
    )
    sentences = [
        draw.pick(
            (
                f"Last {draw.pick(DAYS)} {guest.name} went to {name}.",
                f"{guest.name} has been at {name}, a {draw.pick(SIZES)} {kind}.",
                f"My friend {guest.name} told me about the {kind} {name}.",
            )
        ),
        draw.pick(
            (
                f"To get there {guest.subject} walked from {landmark} to the {area}.",
                f"From {landmark} it is a short way to the {area}.",
                f"You pass {landmark} on the way through the {area}.",
            )
        ),
        f"{_upper(guest.subject)} {seen}.",
        draw.pick(
            (
                "It was expensive, and the families with children had gone home.",
                "It was cheap, so many families with children were there.",
                "Prices were fair.",
                "There was no place for visitors to sit.",
                f"{draw.integer(2, 60)} visitors were there, adults and children.",
            )
        ),
        draw.pick(
            (
                f"{guest.name} gave it {draw.integer(1, 5)} stars of 5.",
                f"{_upper(guest.subject)} felt {draw.pick(FEELINGS)}.",
                f"{guest.name} will go to {name} again.",
            )
        ),
    ]
    return " ".join(sentences)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
