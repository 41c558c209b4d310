"""The text on which the built-in model is pretrained.

It shares words and basic skills (copying, fields, sums) with the two built-in tasks, and none of
their forms: no `name[...], kind[...]` prompts, none of the task's sentences, and no word problem
that asks a question and is answered by lines of sums and `####`.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate

from airtune.data.builtin_words import Draw
from pretraining_text.cards import (
    card_of_a_person_told,
    card_of_a_venue_told,
    card_rewritten,
    card_with_questions,
)
from pretraining_text.narratives import counting_story, dialogue, story
from pretraining_text.records import copied_line, facts, shopping_list
from pretraining_text.sentences import counted_things, sentences
from pretraining_text.sums import chained_sums, counting, running_total, sums
from pretraining_text.venues import town_note

MIX: dict[Callable[[Draw], str], float] = {
    sentences: 0.11,
    counted_things: 0.05,
    story: 0.05,
    dialogue: 0.04,
    facts: 0.02,
    shopping_list: 0.02,
    town_note: 0.05,
    card_with_questions: 0.07,
    card_rewritten: 0.08,
    card_of_a_person_told: 0.05,
    card_of_a_venue_told: 0.14,
    copied_line: 0.07,
    counting_story: 0.11,
    sums: 0.07,
    chained_sums: 0.04,
    running_total: 0.02,
    counting: 0.01,
}
"""The share of documents of each kind."""


def documents(draw: Draw) -> Iterator[str]:
    """Endless documents of the mix."""
    kinds = list(MIX)
    thresholds = list(accumulate(MIX.values()))
    while True:
        point = draw.uniform() * thresholds[-1]
        yield next(kind for kind, top in zip(kinds, thresholds, strict=True) if point < top)(draw)
