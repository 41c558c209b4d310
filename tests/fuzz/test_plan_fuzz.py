"""`airtune plan` on mutated problem files: an answer or one sentence, in bounded time and memory.

`mutants.mutant(seed)` says how the shipped examples are mutated. The full set is `slow` (about ten
minutes of processor time); a small part of it always runs.
"""

import importlib
from collections import Counter
from pathlib import Path

import pytest

from airtune.methods.registry import problem_specs
from tests.fuzz.forked import CPU_S, MEMORY_BYTES, Ended, run_forked
from tests.fuzz.mutants import mutant

MUTANTS = 1_800
_FORE = (
    "airtune.cli.main",
    "rich.table",
    "rich.console",
    "ruamel.yaml",
    "airtune.methods.plan",
    *(
        place
        for problem in problem_specs().values()
        for place in (problem.module, problem.from_cell.module if problem.from_cell else "")
        if place
    ),
)


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    """Once, before anything forks."""
    for module in _FORE:
        importlib.import_module(module)


def faults(ended: Ended) -> list[str]:
    """What a user must never see."""
    said = [line for line in ended.err.splitlines() if not line.startswith("Note: ")]
    sentences = [
        line for line in said if line.startswith("airtune: ") and line.endswith((".", "?"))
    ]
    found = {
        f"exit code {ended.code}": ended.code not in (0, 2, 3),
        "a traceback": "Traceback" in ended.err + ended.out,
        "a warning": "Warning" in ended.err,
        "words beside a good answer": ended.code == 0 and bool(said),
        "no sentence, or several": ended.code == 2 and not len(sentences) == len(said) == 1,
        "neither sentence nor answer": ended.code == 3 and len(sentences) != len(said),
        "nothing said": not (ended.out + ended.err).strip(),
        "more than its time": ended.cpu_s > CPU_S,
        "more than its memory": ended.memory_bytes > MEMORY_BYTES,
    }
    return [name for name, bad in found.items() if bad]


def judged(seeds: range, folder: Path) -> Counter[int]:
    """How often each exit code came; the first mutant with a fault fails the test."""
    codes: Counter[int] = Counter()
    for seed in seeds:
        text, options = mutant(seed)
        problem = folder / f"{seed}.yaml"
        problem.write_text(text, encoding="utf-8")
        ended = run_forked(["plan", str(problem), *options])
        seen = faults(ended)
        assert not seen, f"mutant {seed} {options}: {seen}\n{ended.err[-2000:]}\n{text[:2000]}"
        problem.unlink()
        codes[ended.code] += 1
    return codes


def test_a_mutant_is_repeated_by_its_seed() -> None:
    assert mutant(3) == mutant(3)
    assert len({mutant(seed)[0] for seed in range(50)}) >= 45


def test_the_child_reports_what_happens(tmp_path: Path) -> None:
    """Exit codes, both streams and the limits of the fork itself."""
    missing = run_forked(["plan", str(tmp_path / "none.yaml")])
    assert missing.code == 2
    assert missing.err.startswith("airtune: problem is ")
    assert faults(missing) == []
    assert faults(Ended(1, "", "Traceback (most recent call last):", 30.0, 3 * 1024**3)) == [
        "exit code 1",
        "a traceback",
        "more than its time",
        "more than its memory",
    ]
    assert faults(Ended(0, "plan", "x.py:1: RuntimeWarning: overflow", 1.0, 1)) == [
        "a warning",
        "words beside a good answer",
    ]


def test_a_child_is_not_charged_for_the_memory_of_its_parent(tmp_path: Path) -> None:
    """A forked process begins with all pages of its parent, here of a long test run."""
    held = b"\1" * (400 * 1024**2)
    ended = run_forked(["plan", str(tmp_path / "none.yaml")])
    assert ended.memory_bytes < len(held) / 2


def test_some_mutants(tmp_path: Path) -> None:
    codes = judged(range(12), tmp_path)
    assert codes[0] >= 3
    assert codes[2] >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_1800_mutants(tmp_path: Path) -> None:
    codes = judged(range(MUTANTS), tmp_path)
    print(f"mutants by exit code: {dict(codes)}")  # shown with pytest -s
    assert codes[0] >= 0.3 * MUTANTS, codes
