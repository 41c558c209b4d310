"""Seeded mutants of problem files: what typing, copying, converting and guessing make of them."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from airtune.files import read_yaml_mapping
from airtune.methods.registry import problem_specs

EXAMPLES = Path(__file__).parents[2] / "examples"
EXTREMES = (
    0, -1, 0.5, 1, 2, 7, 1e-9, 1e9, 1e15, 1e-15, 1e100, 1e-100, 1e-194, 1e194, 1e300, 1e-300,
    5e-324, 1.7e308, -1e308, 2**31, 2**63, 10**30, math.inf, -math.inf, math.nan,
)  # fmt: skip
WRONG: tuple[Any, ...] = (
    "abc", "", "10 MHz", "1e6 Hz", True, False, None, [], [1], {}, {"a": 1}, ["x", None],
    "0x10", "2026-11-26", [[1, 2], [3, 4]], "nan", "1_000",
)  # fmt: skip
SWAPS = (
    ("tx_power_dbm", "tx_power_w"),
    ("gain_db", "gain"),
    ("noise_psd_dbm_hz", "noise_psd_w_hz"),
    ("power_max_dbm", "power_max_w"),
    ("main_gain_db", "main_gain"),
    ("total_power_dbm", "total_power_w"),
    ("gain_db", "spectral_efficiency_bps_hz"),
    ("bandwidth_hz", "bandwidth_mhz"),
    ("compute_delay_s", "compute_delay_ms"),
    ("payload_bits", "payload_bytes"),
)
SOLVERS = {name: tuple(spec.load().SOLVERS) for name, spec in problem_specs().items()}

SWEEPS = (
    "bandwidth_hz=1e6,1e7",
    "seed=1,2",
    "noise_psd_dbm_hz=-174,-100,0",
    "clients.gain_db=-80,-140",
)

Path_ = tuple[Any, ...]
Random = np.random.Generator


@cache
def bases() -> list[tuple[str, dict[str, Any]]]:
    """The shipped examples by name."""
    return [(path.stem, read_yaml_mapping(path, "x")) for path in sorted(EXAMPLES.glob("*.yaml"))]


def mutant(seed: int) -> tuple[str, list[str]]:
    """The text of a problem file, and what follows it on the command line."""
    rng = np.random.default_rng([7, seed])
    known = bases()
    name, problem = known[rng.integers(len(known))]
    method = str(problem["method"])
    problem = deepcopy(problem)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        MUTATIONS[rng.choice(len(MUTATIONS), p=WEIGHTS)](rng, problem)
    text = emit(problem)
    if rng.random() < 0.05:
        text = _torn(rng, text)
    return text, _options(rng, method, name)


def _options(rng: Random, method: str, name: str) -> list[str]:
    options = ["--json"] if rng.random() < 0.5 else []
    if method == "tsfa" and rng.random() < 0.3:
        options += ["--rounds", str(rng.choice([1, 5, 20]))]
    if rng.random() < 0.3:
        options += ["--solver", str(rng.choice(SOLVERS[method]))]
    elif rng.random() < 0.1 and "--rounds" not in options:
        options += ["--sweep", str(rng.choice(SWEEPS))]
    return options


def places(value: Any, path: Path_ = ()) -> list[Path_]:
    """Paths of every entry, but for the method's name."""
    found: list[Path_] = [path] if path and path != ("method",) else []
    if isinstance(value, dict):
        found += [inner for key, part in value.items() for inner in places(part, (*path, key))]
    elif isinstance(value, list):
        found += [inner for key, part in enumerate(value) for inner in places(part, (*path, key))]
    return found


def _parent(problem: Any, path: Path_) -> Any:
    for key in path[:-1]:
        problem = problem[key]
    return problem


def _numbers(problem: Any) -> list[Path_]:
    def is_number(path: Path_) -> bool:
        value = _parent(problem, path)[path[-1]]
        return isinstance(value, int | float) and not isinstance(value, bool)

    return [path for path in places(problem) if is_number(path)]


def _pick(rng: Random, paths: list[Path_]) -> Path_ | None:
    return paths[rng.integers(len(paths))] if paths else None


def _mild(rng: Random, problem: Any) -> None:
    """A value that somebody might well have meant."""
    path = _pick(rng, _numbers(problem))
    if path is not None:
        place = _parent(problem, path)
        value = place[path[-1]]
        decibels = "_db" in str(path[-1]) or "_db" in str(path[-2:])
        factor = float(rng.uniform(0.5, 2.0))
        moved = value + float(rng.uniform(-10, 10)) if decibels else value * factor
        place[path[-1]] = max(round(moved), 1) if isinstance(value, int) and not decibels else moved


def _powers(rng: Random, problem: Any) -> None:
    path = _pick(rng, _numbers(problem))
    if path is not None:
        place = _parent(problem, path)
        power = int(rng.choice([1, 3, 6, 9, 30, 100, 190, 300])) * int(rng.choice([-1, 1]))
        value = float(place[path[-1]])
        place[path[-1]] = value * 10.0**power


def _extreme(rng: Random, problem: Any) -> None:
    path = _pick(rng, _numbers(problem))
    if path is not None:
        _parent(problem, path)[path[-1]] = EXTREMES[rng.integers(len(EXTREMES))]


def _sign(rng: Random, problem: Any) -> None:
    path = _pick(rng, _numbers(problem))
    if path is not None:
        place = _parent(problem, path)
        place[path[-1]] = -place[path[-1]]


def _wrong(rng: Random, problem: Any) -> None:
    path = _pick(rng, places(problem))
    if path is not None:
        _parent(problem, path)[path[-1]] = deepcopy(WRONG[rng.integers(len(WRONG))])


def _everywhere(rng: Random, problem: Any) -> None:
    """One key of every client alike: a column that is scaled, extreme or gone."""
    clients = problem.get("clients")
    if not isinstance(clients, list) or not all(isinstance(one, dict) for one in clients):
        return
    keys = sorted({str(key) for one in clients for key in one} - {"name"})
    if not keys:
        return
    key, way = keys[rng.integers(len(keys))], rng.integers(3)
    power, extreme = 10.0 ** rng.integers(-12, 13), EXTREMES[rng.integers(len(EXTREMES))]
    for one in clients:
        if key not in one:
            continue
        number = isinstance(one[key], int | float) and not isinstance(one[key], bool)
        if way == 0:
            del one[key]
        elif number:
            one[key] = one[key] * power if way == 1 else extreme


def _missing(rng: Random, problem: Any) -> None:
    path = _pick(rng, places(problem))
    if path is not None:
        del _parent(problem, path)[path[-1]]


def _misspelt(rng: Random, problem: Any) -> None:
    path = _pick(rng, [path for path in places(problem) if isinstance(path[-1], str)])
    if path is not None:
        place = _parent(problem, path)
        key = path[-1]
        spot = int(rng.integers(len(key)))
        place[key[:spot] + key[spot + 1 :]] = place.pop(key)


def _stranger(rng: Random, problem: Any) -> None:
    homes = [
        problem,
        *(x for x in (_parent(problem, (*p, 0)) for p in places(problem)) if isinstance(x, dict)),
    ]
    homes[rng.integers(len(homes))][
        str(rng.choice(["extra", "Weight", "tx_power", "seed", "1"]))
    ] = 1


def _swapped_unit(rng: Random, problem: Any) -> None:
    old, new = SWAPS[rng.integers(len(SWAPS))]
    for path in reversed(places(problem)):
        if path[-1] == old:
            place = _parent(problem, path)
            place[new] = place.pop(old)


def _swapped_values(rng: Random, problem: Any) -> None:
    paths = _numbers(problem)
    if len(paths) > 1:
        one, two = (paths[i] for i in rng.choice(len(paths), 2, replace=False))
        first, second = _parent(problem, one), _parent(problem, two)
        first[one[-1]], second[two[-1]] = second[two[-1]], first[one[-1]]


def _lists(rng: Random, problem: Any) -> None:
    """An entry doubled, dropped, or a whole list many times over."""
    paths = [p for p in places(problem) if isinstance(_parent(problem, (*p, 0)), list)]
    path = _pick(rng, paths)
    if path is None:
        return
    values = _parent(problem, (*path, 0))
    if not values:
        return
    way, spot = rng.integers(4), int(rng.integers(len(values)))
    if way == 0:
        values.insert(spot, deepcopy(values[spot]))
    elif way == 1:
        values.pop(spot)
    elif way == 2:
        values.reverse()
    else:
        times = int(rng.choice([3, 20, 200]))
        many = [deepcopy(entry) for _ in range(times) for entry in values][:1500]
        for index, entry in enumerate(many):
            if isinstance(entry, dict) and "name" in entry:
                entry["name"] = f"{entry['name']} {index}"
        values[:] = many


def _names(rng: Random, problem: Any) -> None:
    clients = problem.get("clients")
    if isinstance(clients, list) and len(clients) > 1 and all(isinstance(x, dict) for x in clients):
        one, two = rng.choice(len(clients), 2, replace=False)
        clients[one]["name"] = deepcopy(clients[two].get("name"))


def _count(rng: Random, problem: Any) -> None:
    """A count of anything, large or small."""
    keys = ("rank", "batch_size", "local_steps", "count", "round", "seed", "tokens", "subchannels")
    path = _pick(rng, [path for path in _numbers(problem) if path[-1] in keys])
    if path is not None:
        sizes = [1, 2, 3, 16, 100, 1000, 10**5, 10**6, 10**9, 10**15]
        _parent(problem, path)[path[-1]] = sizes[rng.integers(len(sizes))]


MUTATIONS: list[Callable[[Random, Any], None]] = [
    _mild,
    _powers,
    _extreme,
    _sign,
    _wrong,
    _everywhere,
    _missing,
    _misspelt,
    _stranger,
    _swapped_unit,
    _swapped_values,
    _lists,
    _names,
    _count,
]
_CHANCES = [46, 14, 10, 3, 5, 8, 3, 1, 1, 2, 3, 7, 2, 5]
WEIGHTS = np.array(_CHANCES) / sum(_CHANCES)


def _torn(rng: Random, text: str) -> str:
    """The text as a broken copy or a slip in an editor leaves it."""
    spot = int(rng.integers(1, len(text)))
    way = rng.integers(4)
    if way == 0:
        return text[:spot]
    if way == 1:
        return text[:spot] + str(rng.choice(list("{}[]:,\t\n#&*!|>'\"%@`\x00é"))) + text[spot:]
    lines = text.split("\n")
    line = int(rng.integers(len(lines)))
    if way == 2:
        return "\n".join([*lines[: line + 1], *lines[line:]])
    return "\n".join([*lines[:line], "\t" + lines[line], *lines[line + 1 :]])


def emit(problem: dict[str, Any]) -> str:
    """A line for each key at the top, and for each entry of a list there; flow style below."""
    lines = []
    for key, value in problem.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{_scalar(key)}:", *(f"- {_flow(entry)}" for entry in value)]
        else:
            lines.append(f"{_scalar(key)}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return repr(value)
