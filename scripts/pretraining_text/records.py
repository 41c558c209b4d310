"""Pretraining text of things that are always true, of lists and of copies."""

import string

from airtune.data.builtin_words import (
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    LANDMARKS,
    NAME_ADJECTIVES,
    NAME_NOUNS,
    PEOPLE,
    SIZES,
    THINGS,
    Draw,
)

_SOUNDS = {
    "dog": "barks",
    "cat": "purrs",
    "horse": "neighs",
    "goat": "bleats",
    "hen": "clucks",
    "duck": "quacks",
    "fox": "yelps",
    "owl": "hoots",
    "bear": "growls",
    "mouse": "squeaks",
    "rabbit": "is silent",
    "frog": "croaks",
    "cow": "moos",
    "sheep": "bleats",
}
_WORK = {
    "teacher": "teaches children",
    "baker": "bakes bread",
    "doctor": "helps the sick",
    "farmer": "works in the field",
    "painter": "paints walls",
    "sailor": "sails ships",
    "driver": "drives a bus",
    "cook": "cooks soup",
    "nurse": "helps the doctor",
    "singer": "sings songs",
    "gardener": "plants flowers",
    "tailor": "sews clothes",
}
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + "éüñ£€°"


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
                    f"{'An' if animal == 'owl' else 'A'} {animal} {_SOUNDS[animal]}.",
                    f"What does a {job} do? A {job} {_WORK[job]}.",
                    f"After {DAYS[day]} comes {tomorrow}.",
                    f"If today is {DAYS[day]}, then tomorrow is {tomorrow}.",
                    "Five points out of five is a high rating, one is a low rating.",
                    "What is cheap costs little, what is expensive costs a lot.",
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


def copied_line(draw: Draw) -> str:
    """A line of random words or characters that comes twice, or with its middle asked for."""
    pool = (*COLOURS, *ANIMALS, *SIZES, *JOBS, *NAME_NOUNS, *NAME_ADJECTIVES, *FOODS, *LANDMARKS)
    words = [_scrap(draw, pool) if draw.chance(0.4) else draw.pick(pool) for _ in range(5)]
    words = words[: draw.integer(2, 5)]
    line = draw.pick((" ", " ", ", ", "; ")).join(words)
    last = draw.integer(1, len(words) - 1)
    return draw.pick(
        (
            f"Say again: {line}. Again: {line}.",
            f"{line}\n{line}",
            f"{line} # {line}",
            f"{line}\nAfter {words[last - 1]} comes {words[last]}",
        )
    )


def _scrap(draw: Draw, pool: tuple[str, ...]) -> str:
    """A number, characters of chance, or a piece of a word: so no token stays unseen."""
    if draw.chance(0.2):
        return str(draw.integer(0, 999))
    if draw.chance(0.4):
        return "".join(draw.pick(_CHARACTERS) for _ in range(draw.integer(1, 6)))
    word = draw.pick((*pool, *(many for _, many in THINGS), *DAYS))
    start = draw.integer(0, len(word) - 2)
    return word[start : draw.integer(start + 2, len(word))]
