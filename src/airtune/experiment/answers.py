"""What the model writes: answers to test prompts, and how the task scores them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from airtune.data.encoding import encode
from airtune.data.tasks import Example, mean_score
from airtune.experiment.shards import refuse_unknown_ids
from airtune.experiment.world import World
from airtune.tuning.adapter import load_state
from airtune.tuning.evaluate import generate
from airtune.workload.architecture import Architecture

LONGEST_ANSWER = 192
ANSWER_ROWS = 32
"""Prompts continued at once; more would only hold memory."""


def write_answers(
    world: World, adapter: Mapping[str, Tensor], rows: Sequence[int], max_new_tokens: int
) -> list[str]:
    """Greedy continuations of test prompts."""
    load_state(world.model, dict(adapter))
    test = world.shards.test
    prompts = [test.prompt(row).tolist() for row in rows]
    answers: list[str] = []
    for start in range(0, len(prompts), ANSWER_ROWS):
        part = prompts[start : start + ANSWER_ROWS]
        answers += _continued(world, part, max_new_tokens)
    return answers


def most_tokens(architecture: Architecture) -> int | None:
    """Tokens of prompt and continuation together where positions are learned; else no limit."""
    return architecture.max_tokens if architecture.position_rows else None


def _continued(world: World, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    limit = most_tokens(world.architecture)
    return generate(
        world.model, world.base.tokenizer, prompts, max_new_tokens, world.shards.stops, limit
    )


def score(world: World, adapter: Mapping[str, Tensor]) -> tuple[dict[str, float], int]:
    """The task's own score on the first `data.score_rows` test rows, and how many those are."""
    judge, test = world.shards.task.score, world.shards.test
    rows = list(range(min(world.config.data.score_rows, len(test))))
    if judge is None or not rows:
        return {}, 0
    longest = int(test.label_tokens[rows].max())
    answers = write_answers(world, adapter, rows, min(longest + 8, LONGEST_ANSWER))
    return {judge.name: mean_score(judge, [_example(world, row) for row in rows], answers)}, len(
        rows
    )


def _example(world: World, row: int) -> Example:
    return world.shards.task.test[int(world.shards.test.example[row])]


def samples(
    world: World, adapter: Mapping[str, Tensor], count: int, max_new_tokens: int
) -> list[dict[str, str]]:
    """Test prompts with what the base and the tuned model write, and the reference."""
    rows = list(range(min(count, len(world.shards.test))))
    before = write_answers(world, world.untrained, rows, max_new_tokens)
    after = write_answers(world, adapter, rows, max_new_tokens)
    return [
        {
            "prompt": _example(world, row).prompt,
            "before": old,
            "after": new,
            "reference": _example(world, row).completion,
        }
        for row, old, new in zip(rows, before, after, strict=True)
    ]


def continue_prompt(
    world: World, adapter: Mapping[str, Tensor], prompt: str, max_new_tokens: int
) -> dict[str, str]:
    """A user's own prompt, in the form that the model was trained on, continued by both."""
    example = Example(prompt, "x", "")
    tokenizer: Any = world.base.tokenizer
    shards, limit = world.shards, world.config.data.max_tokens
    row = encode(tokenizer, [example], limit, shards.task.separator, shards.inputs)
    refuse_unknown_ids(tokenizer, row.token_ids, world.base.embeddings)
    ids = row.prompt(0).tolist()
    answers = {"prompt": prompt}
    for name, state in (("base", world.untrained), ("tuned", adapter)):
        load_state(world.model, dict(state))
        answers[name] = _continued(world, [ids], max_new_tokens)[0]
    return answers
