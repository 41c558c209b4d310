"""The wordings of the slots-to-sentence task: per kind of venue, and those that all kinds share."""

from dataclasses import dataclass

from airtune.data.builtin.words import EXHIBITS, FOODS, GOODS, PLAYS, SIGHTS, VIEWS


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
"""`price` values and their wordings; scoring accepts the words that tell the three apart."""

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
