"""Pretraining text of plain arithmetic: sums in figures and words, running totals, counting."""

from airtune.data.builtin_tasks import LARGEST
from airtune.data.builtin_words import Draw

_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def _sum(draw: Draw) -> tuple[int, str, int, int]:
    """One true statement `first sign second = result` with numbers up to LARGEST."""
    sign = draw.pick("++--**/")
    if sign == "+":
        first = draw.integer(1, LARGEST - 1)
        second = draw.integer(1, min(30, LARGEST - first))
        return first, sign, second, first + second
    if sign == "-":
        first = draw.integer(2, LARGEST)
        second = draw.integer(1, min(30, first - 1))
        return first, sign, second, first - second
    if draw.chance(0.4):
        first, second = draw.integer(1, LARGEST // 2), 2
    else:
        first, second = draw.integer(2, 9), draw.integer(2, 9)
    if sign == "*":
        return first, sign, second, first * second
    return first * second, sign, second, first


def sums(draw: Draw) -> str:
    """Several sums, in figures or in words."""
    lines = []
    form = draw.integer(0, 3)
    for _ in range(draw.integer(3, 8)):
        first, sign, second, result = _sum(draw)
        lines.append(
            (
                f"{first} {sign} {second} = {result}",
                f"{first} {_WORDS[sign]} {second} is {result}.",
                f"What is {first} {sign} {second}? {result}.",
                f"{result} = {first} {sign} {second}",
            )[form]
        )
    return ("\n" if form in (0, 3) else " ").join(lines)


def chained_sums(draw: Draw) -> str:
    """Sums each of which begins with the result before."""
    first, sign, second, result = _sum(draw)
    parts = [f"{first} {sign} {second} = {result}"]
    for _ in range(draw.integer(1, 4)):
        if result > 1 and draw.chance(0.5):
            change = draw.integer(1, min(30, result - 1))
            parts.append(f"{result} - {change} = {result - change}")
            result -= change
        elif result < LARGEST:
            change = draw.integer(1, min(30, LARGEST - result))
            parts.append(f"{result} + {change} = {result + change}")
            result += change
        elif result % 2 == 0:
            parts.append(f"{result} / 2 = {result // 2}")
            result //= 2
    return draw.pick(("; ", ", then ", " | ")).join(parts)


def running_total(draw: Draw) -> str:
    """A number that is changed again and again."""
    total = draw.integer(1, 60)
    steps = [f"Start at {total}."]
    for _ in range(draw.integer(2, 5)):
        if total > 1 and draw.chance(0.5):
            change = draw.integer(1, min(30, total - 1))
            total -= change
            steps.append(f"Take away {change}: {total}.")
        elif total < LARGEST:
            change = draw.integer(1, min(30, LARGEST - total))
            total += change
            steps.append(f"Add {change}: {total}.")
    return " ".join(steps)


def counting(draw: Draw) -> str:
    """Counting in equal steps, up or down."""
    step, count = draw.integer(1, 9), draw.integer(4, 10)
    first = draw.integer(1, 20)
    numbers = [first + step * index for index in range(count)]
    if draw.chance(0.4):
        numbers.reverse()
    return ", ".join(map(str, numbers)) + "."
