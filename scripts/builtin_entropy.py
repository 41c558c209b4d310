"""How near the built-in model is to the entropy of the text that it was pretrained on.

    python scripts/builtin_entropy.py [--model FOLDER] [--documents 1000] [--json FILE]

airtune generates that text itself, from independent draws with known probabilities, so its entropy
can be computed: no model, however long it is trained, gets below it. The probability of a text is
taken as the product, over its draws, of the share of outcomes that leave the text as it is when
nothing else changes: a draw that nobody sees costs nothing, one of n equally likely words costs
ln n. What is left out: several draws that could change together and leave the text the same (a list
drawn in one order and shuffled into another). They make the entropy come out too high, by about 4 %
in notes on a town, where the model lies below it, and by less elsewhere.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from airtune.data.builtin_words import Draw
from airtune.seeds import generator
from pretraining_text.mix import MIX

T = TypeVar("T")
MODEL = Path(__file__).parents[1] / "src" / "airtune" / "builtin_model"
Outcomes = list[tuple[float, float]]
"""Of one draw: a number in [0, 1) that leads to each outcome, and the outcome's probability."""


class RecordedDraw(Draw):
    """Draws from given numbers, then from a stream; remembers the possible outcomes of each."""

    def __init__(self, numbers: Sequence[float], stream: np.random.Generator | None = None) -> None:
        self.numbers, self.outcomes = list(numbers), list[Outcomes]()
        self._source = stream

    def chance(self, probability: float) -> bool:
        halves = [(probability / 2, probability), ((1 + probability) / 2, 1 - probability)]
        return self._take([half for half in halves if half[1] > 0]) < probability

    def integer(self, low: int, high: int) -> int:
        return low + self._one_of(high - low + 1)

    def pick(self, options: Sequence[T]) -> T:
        return options[self._one_of(len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        rest = list(options)
        return [rest.pop(self._one_of(len(rest))) for _ in range(count)]

    def _one_of(self, count: int) -> int:
        return int(self._take([((k + 0.5) / count, 1 / count) for k in range(count)]) * count)

    def _take(self, outcomes: Outcomes) -> float:
        if len(self.outcomes) == len(self.numbers):
            if self._source is None:
                raise IndexError("this draw was not recorded")
            self.numbers.append(self._source.random())
        self.outcomes.append(outcomes)
        return self.numbers[len(self.outcomes) - 1]


def document_nats(kind: Callable[[Draw], str], recorded: RecordedDraw, text: str) -> float:
    """-ln of the probability that this kind of document reads so."""
    total = 0.0
    for place, outcomes in enumerate(recorded.outcomes):
        same = 0.0
        for number, probability in outcomes:
            changed = list(recorded.numbers)
            changed[place] = number
            if _told(kind, changed) == text:
                same += probability
        total -= math.log(min(same, 1.0))
    return total


def _told(kind: Callable[[Draw], str], numbers: Sequence[float]) -> str | None:
    try:
        return kind(RecordedDraw(numbers))
    except IndexError:
        # Another outcome needed more draws than were recorded: another text.
        return None


@torch.no_grad()
def model_nats(model: Any, ids: Sequence[int]) -> float:
    """Summed loss of the model on `<bos> text <eos>`, the first token given."""
    tokens = torch.tensor([ids])
    return float(model(input_ids=tokens, labels=tokens).loss) * (len(ids) - 1)


def measure(folder: Path, documents: int) -> dict[str, Any]:
    """Entropy and loss in nats a token over hold-out documents, in all and by kind."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stream = generator(0, "pretrain/hold-out")
    thresholds = list(accumulate(MIX.values()))
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for _ in range(documents):
        point = stream.random() * thresholds[-1]
        kind = next(k for k, top in zip(MIX, thresholds, strict=True) if point < top)
        recorded = RecordedDraw([], stream)
        text = kind(recorded)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        entry = sums[kind.__name__]
        entry[0] += document_nats(kind, recorded, text) - math.log(MIX[kind] / thresholds[-1])
        entry[1] += model_nats(model, ids)
        entry[2] += len(ids) - 1
    kinds = {name: _row(entry) for name, entry in sorted(sums.items())}
    total = _row([sum(column) for column in zip(*sums.values(), strict=True)])
    return {"documents": documents, **total, "kinds": kinds}


def _row(sums: Sequence[float]) -> dict[str, float]:
    entropy, loss, tokens = sums
    return {
        "entropy": round(entropy / tokens, 4),
        "loss": round(loss / tokens, 4),
        "ratio": round(loss / entropy, 4),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    arguments.add_argument("--model", type=Path, default=MODEL)
    arguments.add_argument("--documents", type=int, default=1000)
    arguments.add_argument("--json", type=Path, help="write the figures here, too")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    result = measure(options.model, options.documents)
    for name, row in [*result["kinds"].items(), ("all", result)]:
        print(f"{name:24} entropy {row['entropy']:.3f}  loss {row['loss']:.3f}  {row['ratio']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
