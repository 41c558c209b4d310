"""The text on which the built-in model is pretrained.

It shares words and basic skills (copying, fields, sums) with the two built-in tasks, and none of
their forms: no `name[...]` prompts, no descriptions made from them, no word problem with an
answer that ends in `####`.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate

from airtune.data.builtin.draw import Draw
from airtune.data.builtin.narratives import counting_story, dialogue, story, town_note
from airtune.data.builtin.records import (
    card_of_a_person_told,
    card_rewritten,
    card_with_questions,
    copied_line,
    facts,
    shopping_list,
)
from airtune.data.builtin.sums import counting, running_total, sums

MIX: dict[Callable[[Draw], str], float] = {
    story: 0.12,
    counting_story: 0.12,
    dialogue: 0.06,
    town_note: 0.12,
    facts: 0.04,
    shopping_list: 0.04,
    card_with_questions: 0.10,
    card_rewritten: 0.06,
    card_of_a_person_told: 0.08,
    copied_line: 0.04,
    sums: 0.14,
    running_total: 0.05,
    counting: 0.03,
}
"""The share of documents of each kind."""


def documents(draw: Draw) -> Iterator[str]:
    """Endless documents of the mix."""
    kinds = list(MIX)
    thresholds = list(accumulate(MIX.values()))
    while True:
        point = draw.uniform() * thresholds[-1]
        yield next(kind for kind, top in zip(kinds, thresholds, strict=True) if point < top)(draw)
