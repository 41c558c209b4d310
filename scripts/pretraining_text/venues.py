"""Places in town for pretraining text: cards with changing keys, and what guests tell of them."""

from dataclasses import dataclass

from airtune.data.builtin_words import (
    AREAS,
    DAYS,
    EXHIBITS,
    FOODS,
    GOODS,
    LANDMARKS,
    NAME_ADJECTIVES,
    NAME_NOUNS,
    PEOPLE,
    PLAYS,
    SIGHTS,
    VIEWS,
    Draw,
)


@dataclass(frozen=True)
class Venue:
    """What is known of a place: `facts` by meaning, `named` by the keys of one card."""

    kind: str
    facts: dict[str, str]
    named: dict[str, str]


_KEYS = {
    "name": ("name", "place", "house", "title"),
    "kind": ("kind", "type", "sort", "what"),
    "area": ("area", "district", "part of town"),
    "near": ("near", "close to", "by", "next to"),
    "price": ("price", "prices", "cost"),
    "rating": ("rating", "stars", "points", "score"),
    "children": ("children", "kids", "families"),
    "open": ("open", "day"),
}
_OFFERS = {
    "cafe": (FOODS, ("food", "menu", "dish", "serves")),
    "hotel": (VIEWS, ("view", "window", "rooms")),
    "museum": (EXHIBITS, ("shows", "collection", "exhibit")),
    "shop": (GOODS, ("sells", "goods", "buy")),
    "park": (SIGHTS, ("sight", "inside", "feature")),
    "theatre": (PLAYS, ("plays", "stage", "evening")),
}

_CLAUSES = {
    "area": (
        "it is in the {}",
        "you find it in the {}",
        "its part of town is the {}",
        "it belongs to the {}",
    ),
    "near": (
        "it stands near {}",
        "{} is close to it",
        "it is next to {}",
        "we met by {}",
        "from {} it is a short walk",
    ),
    "rating": (
        "we gave it {} of 5 points",
        "it got {} out of five",
        "its rating was {} stars",
        "guests rated it with a {}",
        "most visitors rate it {}",
    ),
    "open": ("it is open on {}", "on {} its door is open", "we were there on {}"),
}
_PRICES = {
    "low": ("everything was cheap", "prices there are low", "it cost us little", "it costs little"),
    "medium": ("the prices were fair", "it asks a moderate price", "we paid an average price"),
    "high": (
        "everything was expensive",
        "prices there are high",
        "it cost us a lot",
        "it costs a lot",
    ),
}
_CHILDREN = {
    "yes": (
        "kids are welcome",
        "they welcome families with children",
        "children like it",
        "it is a good place for kids",
    ),
    "no": (
        "only adults may come",
        "children are not welcome",
        "it is no good place for kids",
        "it is not a house for families",
    ),
}
_OFFER_CLAUSES = {
    "cafe": ("we had {}", "the cook makes {}", "they serve {} every day", "its menu has {}",
             "its kitchen makes {}", "many people know it for {}", "we were hungry and ate {}"),
    "hotel": ("we looked out on {}", "from the window you see {}", "our room had a view of {}",
              "guests who wake up see {}", "before us was {}", "we slept well with {} before us"),
    "museum": ("we looked at {}", "there are rooms full of {}", "they show {}",
               "the collection has {}", "visitors see {} there", "they hold {}"),
    "shop": ("we wanted to buy {}", "they sell {}", "there are {} of every kind",
             "you can choose from many {}"),
    "park": ("we walked to {}", "in the middle is {}", "walkers stop at {}",
             "you will find {} there"),
    "theatre": ("we saw {}", "the stage was used for {}", "they put on {}",
                "the curtain opens for {}", "you can see {}"),
}  # fmt: skip
_FIRST = (
    "{guest} went to {name}, a {kind}.",
    "Have you seen {name}? It is a {kind}.",
    "Dear {guest}, we were at the {kind} {name}.",
    "There is a {kind} called {name}.",
    "{name} is the {kind} that {guest} likes.",
    "My friend {guest} told me about {name}, a friendly {kind}.",
)


def venue_name(draw: Draw) -> str:
    """A name like The Copper Swan."""
    return f"The {draw.pick(NAME_ADJECTIVES)} {draw.pick(NAME_NOUNS)}"


def venue_fields(draw: Draw) -> Venue:
    """A place of which two to six things are known, in an order and under keys of chance."""
    kind = draw.pick(tuple(_OFFERS))
    offers, offer_keys = _OFFERS[kind]
    facts = {
        "offer": draw.pick(offers),
        "area": draw.pick(AREAS),
        "near": draw.pick(LANDMARKS),
        "price": draw.pick(tuple(_PRICES)),
        "rating": str(draw.integer(1, 5)),
        "children": draw.pick(("yes", "no")),
        "open": draw.pick(DAYS),
    }
    kept = draw.sample(tuple(facts), draw.integer(2, 6))
    known = {"name": venue_name(draw), "kind": kind} | {key: facts[key] for key in kept}
    if draw.chance(0.3):
        known = {key: known[key] for key in draw.sample(tuple(known), len(known))}
    keys = _KEYS | {"offer": offer_keys}
    return Venue(kind, known, {draw.pick(keys[key]): value for key, value in known.items()})


def tell_venue(draw: Draw, venue: Venue) -> str:
    """All that is known, told in sentences, mostly in the order of the card."""
    first = draw.pick(_FIRST).format(
        guest=draw.pick(PEOPLE).name, name=venue.facts["name"], kind=venue.kind
    )
    clauses = []
    for key, value in venue.facts.items():
        if key in _CLAUSES:
            clauses.append(draw.pick(_CLAUSES[key]).format(value))
        elif key == "offer":
            clauses.append(draw.pick(_OFFER_CLAUSES[venue.kind]).format(value))
        elif key in ("price", "children"):
            clauses.append(draw.pick((_PRICES if key == "price" else _CHILDREN)[value]))
    return f"{first} {_sentences(draw, clauses)}"


def _sentences(draw: Draw, clauses: list[str]) -> str:
    """Clauses as sentences, some of them joined in pairs."""
    told, joined = "", False
    for clause in clauses:
        if told and not joined and draw.chance(0.3):
            told, joined = f"{told}, {draw.pick(('and', 'and', 'but'))} {clause}", True
        else:
            told = f"{told}. " if told else ""
            told, joined = f"{told}{clause[0].upper()}{clause[1:]}", False
    return f"{told}."


def town_note(draw: Draw) -> str:
    """A place told without its card."""
    return tell_venue(draw, venue_fields(draw))
