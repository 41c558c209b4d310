"""Pretraining text of simple sentences in the present tense: what people have, do and like."""

from airtune.data.builtin_words import (
    ANIMALS,
    AREAS,
    COLOURS,
    CONTAINERS,
    DAYS,
    EXHIBITS,
    FOODS,
    GOODS,
    HOBBIES,
    JOBS,
    LANDMARKS,
    PEOPLE,
    PLAYS,
    SIGHTS,
    SIZES,
    THINGS,
    VIEWS,
    Draw,
)

_KINDS = ("cafe", "hotel", "museum", "shop", "park", "theatre")

_ABOUT_PEOPLE = (
    "{name} buys a {size} {one} on {day}.",
    "{name} finds {n} {many} {where}.",
    "{Subject} gives a {one} away and keeps the other {many}.",
    "{name} sells {many} near {landmark}.",
    "{Subject} gets up, eats {food} and starts the day.",
    "{name} owns a {animal} and {n} {many}.",
    "{Subject} loses {possessive} {one} again and again.",
    "A friend of {name} fills the {box} with {many}.",
    "{name} doubles the {food} for {possessive} friends.",
    "{Subject} keeps the {many} in a {colour} {box}.",
    "Only half of the {many} are {colour}, and the rest is {other_colour}.",
    "Each {box} is {colour}. In each {box} there is a {one}.",
    "Then {subject} has more {many} than before.",
    "The {many} are left {where}.",
    "Now {name} is with {possessive} {animal} {where}.",
    "What does {name} like? {Subject} likes {hobby}.",
    "Where does {subject} live? {Subject} lives in the {area}.",
    "In the end {name} goes home with {n} {many}.",
    "{name} and {friend} own {n} {many} together.",
)
_ABOUT_TOWN = (
    "If you are hungry, try the {food}.",
    "If you like {hobby}, go to the {area}.",
    "For a walk in the evening, choose the {area}.",
    "For an evening out, {name} likes {plays}.",
    "A {kind} serves people, and people come for {food}.",
    "On {day} {food} is on the menu.",
    "The kitchen is known for its {food}.",
    "Guests sleep well in a {size} room.",
    "Every window looks out on {view}.",
    "Its rooms have a view of {view}.",
    "You wake up with {view} before you.",
    "The {kind} can be visited on {day}.",
    "The {size} {kind} stands {where}, and it has a {colour} door.",
    "Visitors can look at {exhibits} there.",
    "Visitors see that the rooms are full of {exhibits}.",
    "The collection holds {exhibits} and shows {other_exhibits}.",
    "There you can buy {goods} of every kind.",
    "This shop sells {goods}, that shop {other_goods}.",
    "Walkers like to stop at {sight}.",
    "In the middle of the park you will find {sight}.",
    "Next to {landmark} lies {sight}.",
    "Close to {landmark} there is a place called the {area}.",
    "A part of town is called the {area}.",
    "The stage is used for {plays}, and the theatre puts on {other_plays}.",
    "The {kind} opens its curtain for {plays}.",
    "You can see {plays} there.",
    "Children are welcome in the park. The place welcomes families.",
    "It is for children, not for adults.",
    "It is for adults only, and no place for a {animal}.",
    "It is good for families and for {job}s.",
    "Prices are moderate in the {area}, but high near {landmark}.",
    "A visit costs a lot on {day} and little on {other_day}.",
    "It has fair prices. It asks average prices.",
    "It has low prices and is cheap. It has high prices and is expensive.",
    "The {kind} to see is in the {area}, in this town.",
    "Visitors rate the {kind} {n} out of {n2}.",
    "It has a rating of {n}, and it is rated by {n2} visitors.",
    "The place is near {landmark} in the {area}.",
)


def sentences(draw: Draw) -> str:
    """Two to four simple sentences about one person, or about a town."""
    options = draw.pick((_ABOUT_PEOPLE, _ABOUT_TOWN))
    words = _people(draw) | _town(draw)
    told = draw.sample(options, draw.integer(2, 4))
    return " ".join(sentence.format(**words) for sentence in told)


def counted_things(draw: Draw) -> str:
    """What somebody has, and a question whose answer stands in the text."""
    person, friend = draw.sample(PEOPLE, 2)
    things = draw.sample(THINGS, 3)
    has = {many: draw.integer(2, 99) for _, many in things}
    listed = [f"{count} {many}" for many, count in has.items()]
    asked = draw.pick(tuple(has))
    owner, other = draw.sample((person.name, friend.name), 2)
    return draw.pick(
        (
            f"{owner} has {', '.join(listed[:2])} and {listed[2]}. "
            f"How many {asked} does {owner} have? {has[asked]}.",
            f"{owner} owns {listed[0]} and {listed[1]}, and {other} owns {listed[2]}. "
            f"How many {things[2][1]} does {other} own? {other} owns {listed[2]}.",
            f"There are {listed[0]} in a {draw.pick(CONTAINERS)[0]} and {listed[1]} beside it. "
            f"How many {things[0][1]} are in it? {has[things[0][1]]}.",
        )
    )


def _people(draw: Draw) -> dict[str, str]:
    person, friend = draw.sample(PEOPLE, 2)
    one, many = draw.pick(THINGS)
    colour, other_colour = draw.sample(COLOURS, 2)
    return {
        "name": person.name,
        "subject": person.subject,
        "Subject": person.subject.capitalize(),
        "possessive": person.possessive,
        "friend": friend.name,
        "one": one,
        "many": many,
        "box": draw.pick(CONTAINERS)[0],
        "n": str(draw.integer(1, 30)),
        "n2": str(draw.integer(1, 99)),
        "size": draw.pick(SIZES),
        "colour": colour,
        "other_colour": other_colour,
        "animal": draw.pick(ANIMALS),
        "job": draw.pick(JOBS),
        "hobby": draw.pick(HOBBIES),
        "food": draw.pick(FOODS),
    }


def _town(draw: Draw) -> dict[str, str]:
    day, other_day = draw.sample(DAYS, 2)
    exhibits, other_exhibits = draw.sample(EXHIBITS, 2)
    goods, other_goods = draw.sample(GOODS, 2)
    plays, other_plays = draw.sample(PLAYS, 2)
    landmark = draw.pick(LANDMARKS)
    return {
        "day": day,
        "other_day": other_day,
        "where": draw.pick(("in the garden", "at home", f"near {landmark}", "under the table")),
        "landmark": landmark,
        "area": draw.pick(AREAS),
        "kind": draw.pick(_KINDS),
        "view": draw.pick(VIEWS),
        "sight": draw.pick(SIGHTS),
        "exhibits": exhibits,
        "other_exhibits": other_exhibits,
        "goods": goods,
        "other_goods": other_goods,
        "plays": plays,
        "other_plays": other_plays,
    }
