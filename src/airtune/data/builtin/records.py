"""Pretraining text with structure: facts, lists, cards of fields, copies."""

from airtune.data.builtin.draw import Draw
from airtune.data.builtin.words import (
    ANIMALS,
    AREAS,
    COLOURS,
    DAYS,
    EXHIBITS,
    FOODS,
    GOODS,
    HOBBIES,
    JOBS,
    LANDMARKS,
    NAME_ADJECTIVES,
    NAME_NOUNS,
    PEOPLE,
    PLAYS,
    SIGHTS,
    SIZES,
    THINGS,
    VIEWS,
    Person,
)

_SOUNDS = {
    "dog": "barks", "cat": "purrs", "horse": "neighs", "goat": "bleats", "hen": "clucks",
    "duck": "quacks", "fox": "yelps", "owl": "hoots", "bear": "growls", "mouse": "squeaks",
    "rabbit": "is silent", "frog": "croaks", "cow": "moos", "sheep": "bleats",
}  # fmt: skip
_WORK = {
    "teacher": "teaches children", "baker": "bakes bread", "doctor": "helps the sick",
    "farmer": "works in the field", "painter": "paints walls", "sailor": "sails ships",
    "driver": "drives a bus", "cook": "cooks soup", "nurse": "helps the doctor",
    "singer": "sings songs", "gardener": "plants flowers", "tailor": "sews clothes",
}  # fmt: skip


def facts(draw: Draw) -> str:
    """Things that are always true, and questions about them."""
    sentences = []
    for _ in range(draw.integer(2, 4)):
        animal, job, day = draw.pick(ANIMALS), draw.pick(JOBS), draw.integer(0, 6)
        tomorrow = DAYS[(day + 1) % 7]
        sentences.append(
            draw.pick(
                (
                    f"A {job} {_WORK[job]}.",
                    f"A {animal} {_SOUNDS[animal]}.",
                    f"What does a {job} do? A {job} {_WORK[job]}.",
                    f"After {DAYS[day]} comes {tomorrow}.",
                    f"If today is {DAYS[day]}, then tomorrow is {tomorrow}.",
                    "Five stars out of five is a high rating, one is a low rating.",
                    "Cheap things cost little, expensive things cost a lot.",
                    "A fair price is average or moderate, neither low nor high.",
                )
            )
        )
    return " ".join(sentences)


def shopping_list(draw: Draw) -> str:
    """A list with counts, in one of three forms, sometimes added up."""
    chosen = draw.sample(THINGS, draw.integer(2, 4))
    counts = [draw.integer(2, 20) for _ in chosen]
    items = [f"{count} {thing[1]}" for count, thing in zip(counts, chosen, strict=True)]
    person = draw.pick(PEOPLE)
    listed = draw.pick(
        (
            f"{person.name}'s list:\n" + "\n".join(f"- {item}" for item in items),
            f"To buy: {'; '.join(items)}.",
            f"{person.name} needs {', '.join(items[:-1])} and {items[-1]}.",
        )
    )
    if draw.chance(0.4):
        listed += f"\nTogether: {' + '.join(map(str, counts))} = {sum(counts)} things."
    return listed


def _person_fields(draw: Draw) -> tuple[Person, dict[str, str]]:
    person = draw.pick(PEOPLE)
    fields = {
        "Job": draw.pick(JOBS),
        "Age": str(draw.integer(7, 80)),
        "Pet": draw.pick(ANIMALS),
        "Likes": draw.pick((*FOODS, *HOBBIES)),
        "Home": draw.pick(AREAS),
    }
    kept = draw.sample(tuple(fields), draw.integer(2, 4))
    return person, {"Person": person.name} | {key: fields[key] for key in kept}


def _venue_fields(draw: Draw) -> dict[str, str]:
    offer = draw.pick((FOODS, VIEWS, EXHIBITS, GOODS, SIGHTS, PLAYS))
    fields = {
        "Area": draw.pick(AREAS),
        "By": draw.pick(LANDMARKS),
        "What": draw.pick(offer),
        "Stars": str(draw.integer(1, 5)),
        "Open": draw.pick(DAYS),
        "Guests": str(draw.integer(2, 90)),
    }
    kept = draw.sample(tuple(fields), draw.integer(2, 4))
    name = f"The {draw.pick(NAME_ADJECTIVES)} {draw.pick(NAME_NOUNS)}"
    return {"Place": name} | {key: fields[key] for key in kept}


def _write_card(draw: Draw, fields: dict[str, str]) -> str:
    return draw.pick(
        (
            "\n".join(f"{key}: {value}" for key, value in fields.items()),
            " | ".join(f"{key} = {value}" for key, value in fields.items()),
            "; ".join(f"{key.lower()} is {value}" for key, value in fields.items()),
            "{" + ", ".join(f'"{key}": "{value}"' for key, value in fields.items()) + "}",
        )
    )


def card_with_questions(draw: Draw) -> str:
    """A card of fields, then questions whose answers stand on the card."""
    fields = _person_fields(draw)[1] if draw.chance(0.4) else _venue_fields(draw)
    asked = draw.sample(tuple(fields.items()), draw.integer(1, 3))
    lines = [f"{key}? {value}" for key, value in asked]
    return "\n".join([_write_card(draw, fields), *lines])


def card_rewritten(draw: Draw) -> str:
    """The same card in two of the forms."""
    fields = _person_fields(draw)[1] if draw.chance(0.3) else _venue_fields(draw)
    return f"{_write_card(draw, fields)}\n=\n{_write_card(draw, fields)}"


def card_of_a_person_told(draw: Draw) -> str:
    """A person's card, and the same as sentences."""
    person, fields = _person_fields(draw)
    subject = person.subject.capitalize()
    clauses = {
        "Job": (f"works as a {fields.get('Job')}", f"is a {fields.get('Job')}"),
        "Age": (f"is {fields.get('Age')} years old", f"has turned {fields.get('Age')}"),
        "Pet": (f"has a {fields.get('Pet')}", f"lives with a {fields.get('Pet')}"),
        "Likes": (f"likes {fields.get('Likes')}", f"loves {fields.get('Likes')}"),
        "Home": (f"lives in the {fields.get('Home')}", f"is from the {fields.get('Home')}"),
    }
    told = [draw.pick(clauses[key]) for key in fields if key != "Person"]
    sentences = [f"{person.name} {told[0]}.", *(f"{subject} {clause}." for clause in told[1:])]
    return f"{_write_card(draw, fields)}\nIn words: {' '.join(sentences)}"


def copied_line(draw: Draw) -> str:
    """A line of random words that comes twice."""
    pool = (*COLOURS, *ANIMALS, *SIZES, *JOBS, *NAME_NOUNS, *NAME_ADJECTIVES)
    words = " ".join(draw.sample(pool, draw.integer(3, 8)))
    return draw.pick((f"Say again: {words}. Again: {words}.", f"{words}\n{words}"))
