"""Pretraining text made of fields: cards in many forms, questions about them, cards told."""

from airtune.data.builtin_words import (
    ANIMALS,
    AREAS,
    COLOURS,
    DAYS,
    FOODS,
    HOBBIES,
    JOBS,
    LANDMARKS,
    PEOPLE,
    SIZES,
    THINGS,
    Draw,
    Person,
)
from pretraining_text.venues import tell_venue, venue_fields

Fields = dict[str, str]

_PAIRS = (
    "{}: {}",
    "{} = {}",
    "{}={}",
    "{} is {}",
    "{} -> {}",
    "{}({})",
    "<{}> {}",
    "[{}] {}",
    '"{}": "{}"',
    "{} {}",
    "{} - {}",
    "{}:{}",
)
_BETWEEN = ("\n", "\n", "; ", ", ", " | ", " / ", " * ", ". ")
_AROUND = ("{}", "{}", "{}", "({})", "{{{}}}", "# {}", "Card: {}", "<<{}>>", "Data\n{}")
_CASES = (str.lower, str.lower, str.capitalize, str.upper)


def write_card(draw: Draw, fields: Fields) -> str:
    """Fields in one of hundreds of forms; that of the fine-tuning task is not among them."""
    pair, case = draw.pick(_PAIRS), draw.pick(_CASES)
    pairs = [pair.format(case(key), value) for key, value in fields.items()]
    return draw.pick(_AROUND).format(draw.pick(_BETWEEN).join(pairs))


def person_fields(draw: Draw) -> tuple[Person, Fields]:
    """A person and two to four things about them."""
    person = draw.pick(PEOPLE)
    fields = {
        "job": draw.pick(JOBS),
        "age": str(draw.integer(7, 80)),
        "pet": draw.pick(ANIMALS),
        "likes": draw.pick((*FOODS, *HOBBIES)),
        "home": draw.pick(AREAS),
    }
    kept = draw.sample(tuple(fields), draw.integer(2, 4))
    return person, {"person": person.name} | {key: fields[key] for key in kept}


def _thing_fields(draw: Draw) -> Fields:
    fields = {
        "thing": draw.pick(THINGS)[0],
        "colour": draw.pick(COLOURS),
        "size": draw.pick(SIZES),
        "count": str(draw.integer(1, 99)),
        "owner": draw.pick(PEOPLE).name,
        "found": f"near {draw.pick(LANDMARKS)}",
        "day": draw.pick(DAYS),
    }
    return {key: fields[key] for key in draw.sample(tuple(fields), draw.integer(2, 6))}


def _any_fields(draw: Draw) -> Fields:
    if draw.chance(0.5):
        return venue_fields(draw).named
    return person_fields(draw)[1] if draw.chance(0.5) else _thing_fields(draw)


def card_with_questions(draw: Draw) -> str:
    """A card of fields, then questions whose answers stand on the card."""
    fields = _any_fields(draw)
    asked = draw.sample(tuple(fields.items()), draw.integer(1, len(fields)))
    form = draw.pick(("{}? {}", "What is the {}? {}.", "Q: {} A: {}"))
    lines = [form.format(key, value) for key, value in asked]
    return "\n".join([write_card(draw, fields), *lines])


def card_rewritten(draw: Draw) -> str:
    """The same card in two forms, the second sometimes in another order."""
    fields = _any_fields(draw)
    order = draw.sample(tuple(fields), len(fields)) if draw.chance(0.3) else tuple(fields)
    again = write_card(draw, {key: fields[key] for key in order})
    return f"{write_card(draw, fields)}\n{draw.pick(('=', 'Again:', '---'))}\n{again}"


def card_of_a_person_told(draw: Draw) -> str:
    """A person's card, and the same as sentences."""
    person, fields = person_fields(draw)
    subject = person.subject.capitalize()
    clauses = {
        "job": (f"works as a {fields.get('job')}", f"is a {fields.get('job')}"),
        "age": (f"is {fields.get('age')} years old", f"has turned {fields.get('age')}"),
        "pet": (f"has a {fields.get('pet')}", f"lives with a {fields.get('pet')}"),
        "likes": (f"likes {fields.get('likes')}", f"loves {fields.get('likes')}"),
        "home": (f"lives in the {fields.get('home')}", f"is from the {fields.get('home')}"),
    }
    told = [draw.pick(clauses[key]) for key in fields if key != "person"]
    sentences = [f"{person.name} {told[0]}.", *(f"{subject} {clause}." for clause in told[1:])]
    return f"{write_card(draw, fields)}\nIn words: {' '.join(sentences)}"


def card_of_a_venue_told(draw: Draw) -> str:
    """A place's card, and what a guest tells of it; now and then the card comes second."""
    venue = venue_fields(draw)
    card, told = write_card(draw, venue.named), tell_venue(draw, venue)
    if draw.chance(0.15):
        return f"{told}\n{card}"
    between = draw.pick(("\nIn words: ", "\nReview: ", "\n\n", "\nThat means: "))
    return f"{card}{between}{told}"
