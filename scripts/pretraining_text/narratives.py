"""Pretraining text that tells something: stories, counting stories, dialogues, notes on a town."""

from airtune.data.builtin_words import (
    COLOURS,
    CONTAINERS,
    DAYS,
    FEELINGS,
    FOODS,
    HOBBIES,
    LANDMARKS,
    PEOPLE,
    SIZES,
    THINGS,
    WEATHER,
    Draw,
)

_PLACES = ("in the garden", "in the kitchen", "at school", "at home", "under the table")

_STORY = (
    (
        "On {day} it was {weather}.",
        "It was a {weather} day.",
        "One {weather} {day} {hero.name} went out.",
    ),
    (
        "{hero.name} had a {looks}, and {hero.subject} liked it very much.",
        "{hero.name} looked for {hero.possessive} {looks}.",
        "{hero.name} wanted to show {friend.name} {hero.possessive} {looks}.",
    ),
    (
        "But the {thing} was gone, and {hero.subject} felt {feeling}.",
        '"Where is my {thing}?" asked {hero.name}, and {hero.subject} was {feeling}.',
    ),
    (
        "{friend.name} found the {thing} {place}.",
        "Then {friend.name} saw it {place} and gave it to {hero.object}.",
        '"It is {place}," said {friend.name}.',
    ),
    (
        "{hero.name} thanked {friend.name}, and they ate {food}.",
        "So {hero.name} had the {looks} again.",
        "In the end {hero.name} was {later} and {friend.name} was {feeling}.",
    ),
)


def story(draw: Draw) -> str:
    """Somebody loses a thing, looks for it and is helped; what was said once stays true."""
    hero, friend = draw.sample(PEOPLE, 2)
    thing = draw.pick(THINGS)[0]
    told = {
        "hero": hero,
        "friend": friend,
        "thing": thing,
        "looks": f"{draw.pick(SIZES)} {draw.pick(COLOURS)} {thing}",
        "place": draw.pick((*_PLACES, *(f"near {landmark}" for landmark in LANDMARKS))),
        "day": draw.pick(DAYS),
        "weather": draw.pick(WEATHER),
        "food": draw.pick(FOODS),
        "feeling": draw.pick(FEELINGS),
        "later": draw.pick(FEELINGS),
    }
    return " ".join(draw.pick(sentences).format(**told) for sentences in _STORY)


def counting_story(draw: Draw) -> str:
    """Things come and go; the count is worked out after each change, in words or as a sum."""
    person, (one, many) = draw.pick(PEOPLE), draw.pick(THINGS)
    total = draw.integer(1, 40)
    sentences = [f"{person.name} had {total} {one if total == 1 else many}."]
    if draw.chance(0.3):
        count, each = draw.integer(2, 9), draw.integer(2, 9)
        box, boxes = draw.pick(CONTAINERS)
        total = count * each
        sentences = [
            f"{person.name} had {count} {boxes}, and every {box} held {each} {many}. "
            f"That makes {count} * {each} = {total} {many}."
        ]
    for _ in range(draw.integer(1, 3)):
        before, told, sign, change = total, *_change(draw, total)
        total = {"+": total + change, "-": total - change, "*": total * 2, "/": total // 2}[sign]
        counted = draw.pick(
            (
                f"so there were {total}",
                f"which makes {before} {sign} {change} = {total}",
                f"and {total} was the new count",
                f"and had {total} {one if total == 1 else many} then",
            )
        )
        sentences.append(f"{_upper(person.subject)} {told}, {counted}.")
    if draw.chance(0.3):
        sentences.append(f"How many {many} were there in the end? {total}.")
    return " ".join(sentences)


def _change(draw: Draw, total: int) -> tuple[str, str, int]:
    """What happens to a count: told, its sign, and by how much."""
    if total % 2 == 0 and draw.chance(0.2):
        return draw.pick(("shared half of them", "was left with half")), "/", 2
    if total < 50 and draw.chance(0.2):
        return draw.pick(("doubled them", "got as many again")), "*", 2
    if total > 2 and (total > 70 or draw.chance(0.5)):
        change = draw.integer(1, min(30, total - 1))
        told = ("dropped {}", "ate {}", "gave {} to a friend", "lost {}", "sold {} of them")
        return draw.pick(told).format(change), "-", change
    change = draw.integer(1, 30)
    told = ("picked {} more", "was given {}", "found {}", "bought {} new ones", "got {} back")
    return draw.pick(told).format(change), "+", change


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


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
