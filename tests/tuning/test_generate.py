"""Continuations end where a model has no more learned positions."""

from collections.abc import Sequence

import pytest

from airtune.tuning.evaluate import generate
from tests.models import small_model


class Numbers:
    """A tokenizer whose text is the token ids; no token ends a text."""

    pad_token_id, eos_token_id = 0, None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return " ".join(str(int(token)) for token in ids)


def prompt(length: int) -> list[int]:
    return [1 + place % 90 for place in range(length)]


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("length", [10, 63, 64, 65])
def test_prompt_and_answer_share_the_positions(family: str, length: int) -> None:
    model = small_model(family)
    (answer,) = generate(model, Numbers(), [prompt(length)], 96, most_tokens=64)
    assert len(answer.split()) == max(0, 64 - length)


def test_an_answer_does_not_depend_on_the_prompts_beside_it() -> None:
    model, prompts = small_model("gpt2"), [prompt(50), prompt(5), prompt(63), prompt(7)]
    together = generate(model, Numbers(), prompts, 20, most_tokens=64)
    assert together == [generate(model, Numbers(), [one], 20, most_tokens=64)[0] for one in prompts]
    assert [len(answer.split()) for answer in together] == [14, 20, 1, 20]
    # Without a limit in reach nothing changes.
    assert generate(model, Numbers(), prompts[1:2], 20) == together[1:2]
