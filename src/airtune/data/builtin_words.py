"""The words that the built-in tasks and the pretraining text share, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 8192


class Draw:
    """Choices from one random stream.

    Uniform numbers are taken from the stream in blocks: a call of the generator for each of the
    millions of choices in a corpus would take minutes.
    """

    def __init__(self, stream: np.random.Generator) -> None:
        self._stream = stream
        self._block: list[float] = []

    def uniform(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._stream.random(_BLOCK).tolist()
        return self._block.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.uniform() * len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Several different options in random order."""
        rest = list(options)
        return [rest.pop(int(self.uniform() * len(rest))) for _ in range(count)]


@dataclass(frozen=True)
class Person:
    """A first name with its pronouns."""

    name: str
    subject: str
    object: str
    possessive: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


_SHE = _words(
    "Mia Nora Ada Lena Ines Ruth Tara Zoe Iris Vera Dana Elsa Maya Nina Olga Rosa Sara Wanda"
)
_HE = _words(
    "Leo Max Omar Finn Hugo Ivan Jack Karl Luis Milo Noah Otto Paul Remy Sam Theo Yan Abel"
)

PEOPLE = tuple(
    [Person(name, "she", "her", "her") for name in _SHE]
    + [Person(name, "he", "him", "his") for name in _HE]
)

THINGS = tuple(
    pair.split("/")
    for pair in _words(
        "apple/apples pear/pears plum/plums lemon/lemons egg/eggs cookie/cookies "
        "muffin/muffins button/buttons shell/shells stone/stones coin/coins stamp/stamps "
        "card/cards pencil/pencils pen/pens book/books marble/marbles bead/beads "
        "ribbon/ribbons candle/candles cup/cups spoon/spoons plate/plates ticket/tickets "
        "flower/flowers seed/seeds carrot/carrots onion/onions nut/nuts brick/bricks "
        "nail/nails key/keys letter/letters photo/photos sticker/stickers balloon/balloons"
    )
)
"""Countable things, (singular, plural)."""

CONTAINERS = tuple(
    pair.split("/") for pair in _words("box/boxes bag/bags basket/baskets jar/jars tray/trays")
)

COLOURS = _words("red blue green yellow white black brown silver golden grey")
SIZES = _words("small big tiny large old new round heavy")
FEELINGS = _words("happy sad tired proud hungry angry afraid glad surprised calm")
ANIMALS = _words("dog cat horse goat hen duck fox owl bear mouse rabbit frog cow sheep")
WEATHER = _words("sunny rainy windy cold warm cloudy snowy foggy")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
JOBS = _words("teacher baker doctor farmer painter sailor driver cook nurse singer gardener tailor")
HOBBIES = _words("chess music football reading cooking fishing dancing painting")

NAME_ADJECTIVES = _words(
    "Blue Copper Golden Silver Quiet Little Green Old Red Lucky Merry Bright Amber Hidden Velvet "
    "Wooden Crystal Stone Iron Royal"
)
NAME_NOUNS = _words(
    "Kettle Lantern Anchor Swan Harbour Garden Bell Crown Feather Fox Mirror Orchard Compass "
    "Clover Pearl Tower River Wheel Star Acorn Heron Rose Bridge Pine"
)

AREAS = _listed(
    "old town|harbour|city centre|north side|university quarter|market district|riverside|hills"
)
LANDMARKS = _listed(
    "the old mill|the central station|the town hall|the stone bridge|the lighthouse|the library|"
    "the post office|the fish market|the clock tower|the ferry pier|the football ground|"
    "the botanical garden|the school|the fountain"
)

FOODS = _listed(
    "noodle soup|fresh bread|apple cake|grilled fish|rice and beans|onion pie|roast chicken|"
    "mushroom stew|cheese toast|lemon tea|tomato soup|potato salad|honey waffles|spicy curry|"
    "fruit ice cream|pancakes"
)
VIEWS = _listed("the sea|the garden|the river|the mountains|the square|the forest")
EXHIBITS = _listed(
    "old maps|model ships|modern art|stone tools|silver coins|steam engines|rare birds|"
    "glass lamps|toys|folk dress"
)
GOODS = _listed(
    "books|bicycles|hats|garden tools|candles|shoes|musical instruments|lamps|wool|kitchen knives"
)
SIGHTS = _listed(
    "a rose garden|a small lake|a playground|tall oak trees|a maze|a bird house|a running track|"
    "a bandstand"
)
PLAYS = _listed(
    "comedies|puppet plays|operas|dance evenings|old films|detective plays|jazz nights|musicals"
)
