"""The built-in tasks as examples, split so that no prompt is in both parts."""

import zlib
from collections.abc import Callable
from itertools import islice

from airtune.data.builtin.arithmetic import arithmetic_example
from airtune.data.builtin.slots import slots_example
from airtune.data.builtin.words import Draw
from airtune.data.tasks import Example
from airtune.seeds import generator

BUILTIN_TASKS: dict[str, Callable[[Draw], Example]] = {
    "slots": slots_example,
    "arithmetic": arithmetic_example,
}
_TEST_ONE_IN = 8


def builtin_examples(task: str, part: str, count: int, seed: int) -> list[Example]:
    """`count` examples with different prompts, for `part` "train" or "test".

    A checksum of the prompt decides to which part it belongs, so that parts of any size and of any
    two seeds share no prompt. More examples with the same seed begin with the same ones.
    """
    make, wanted = BUILTIN_TASKS[task], {"train": False, "test": True}[part]
    draw = Draw(generator(seed, f"builtin/{task}/{part}"))
    seen: set[str] = set()

    def fresh() -> Example:
        while True:
            example = make(draw)
            is_test = zlib.crc32(example.prompt.encode()) % _TEST_ONE_IN == 0
            if is_test == wanted and example.prompt not in seen:
                seen.add(example.prompt)
                return example

    return list(islice(iter(fresh, None), count))
