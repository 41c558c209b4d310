"""Seek the learning rate of every arm of a comparison, on its first seed.

    python scripts/learning_rates.py experiments/compare-field.yaml --factors 0.5,1,2,4 --jobs 2

Each arm runs with its own rate times every factor, as an arm of one comparison in
`runs/rates-NAME`, which the same command continues. The rate of the lowest final test loss is the
arm's; one at the edge of those that were tried is marked, since a better one may lie beyond.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import airtune
from airtune.comparison.definition import laid_over, read_comparison
from airtune.errors import InputError
from airtune.files import read_yaml_mapping


def with_rates(path: Path, factors: Sequence[float]) -> tuple[dict[str, Any], dict[str, float]]:
    """A comparison of every arm at every rate, and the rate of each of its arms."""
    content = read_yaml_mapping(path, "comparison")
    asked = read_comparison(path)
    arms: dict[str, Any] = {}
    rates: dict[str, float] = {}
    for arm in asked.arms:
        first = next(iter(arm.configs.values())).training.learning_rate
        if first is None:
            raise InputError("training.learning_rate", "left out", "a rate to try multiples of")
        own = {k: v for k, v in (content["arms"][arm.name] or {}).items() if k != "seeds"}
        for factor in factors:
            rate = float(f"{first * factor:.3g}")
            name = f"{arm.name} at {rate:g}"
            arms[name] = laid_over(own, {"training": {"learning_rate": rate}})
            rates[name] = rate
    seed = min(asked.arms[0].configs)
    return {"experiment": content.get("experiment"), "seeds": [seed], "arms": arms}, rates


def best_rates(numbers: Mapping[str, Any], rates: Mapping[str, float]) -> list[str]:
    """A line an arm: final losses by rate, and the best one."""
    losses: dict[str, dict[float, float]] = {}
    for arm in numbers["arms"]:
        name, rate = arm["arm"].rpartition(" at ")[0], rates[arm["arm"]]
        final = arm["final_test_loss"]
        losses.setdefault(name, {})[rate] = float("inf") if final is None else final["mean"]
    return [_line(name, found) for name, found in losses.items()]


def _line(name: str, losses: Mapping[float, float]) -> str:
    best = min(losses, key=lambda rate: losses[rate])
    edge = " (at the edge)" if best in (min(losses), max(losses)) else ""
    tried = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in losses.items())
    return f"{name}: {best:g}{edge}   [{tried}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path, help="a comparison file")
    parser.add_argument("--factors", default="0.5,1,2,4", help="of each arm's own rate")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--out", type=Path, help="folder; else runs/rates-NAME")
    arguments = parser.parse_args()
    factors = [float(factor) for factor in arguments.factors.split(",")]
    content, rates = with_rates(arguments.comparison, factors)
    name = arguments.comparison.stem.removeprefix("compare-")
    out = arguments.out or Path("runs") / f"rates-{name}"
    compared = airtune.compare(content, out=out, jobs=arguments.jobs)
    print("\n".join(best_rates(compared.numbers, rates)))


if __name__ == "__main__":
    main()
