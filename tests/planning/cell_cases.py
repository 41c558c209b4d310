"""Small problems that name a model and a cell, one per method."""

from typing import Any

CELL: dict[str, Any] = {"bandwidth_hz": 10e6, "radius_m": 400, "path_loss": "log_distance"}
COMMON: dict[str, Any] = {
    "model": "gpt2",
    "cell": CELL,
    "clients": {"count": 3, "devices": ["jetson-orin-nano", "orange-pi-5"]},
    "training": {"batch_size": 2, "local_steps": 3},
    "tokens": 64,
    "seed": 4,
}
JCPBA = COMMON | {"method": "jcpba", "pruning_rate_max": 0.8, "pruning_budget": 0.2}
TSFA = COMMON | {"method": "tsfa", "latency_target_s": 10.0, "v": 50, "virtual_queue": 1.5}
SFLLLM = COMMON | {
    "method": "sflllm",
    "rounds": {4: 40, 8: 35},
    "main_server": {"flop_rate": 1e13, "subchannels": 6},
    "federated_server": {"subchannels": 4, "total_power_dbm": 25},
}
FEDSLLM = COMMON | {"method": "fedsllm", "a": 10, "v": 2}
HSFL = COMMON | {"method": "hsfl", "main_server": {"flop_rate": 1e12}}
ENERGY = COMMON | {"method": "latency_energy", "weight_s_per_j": 0.05}
FEDSL = COMMON | {
    "method": "fedsl",
    "split_point": 3,
    "window_s": 40.0,
    "training": {"batch_size": 2},
}
SELECTION = COMMON | {"method": "client_selection", "weight_share": 0.6}
PROBLEMS = (JCPBA, TSFA, SFLLLM, FEDSLLM, HSFL, ENERGY, FEDSL, SELECTION)
CASES = {case["method"]: case for case in PROBLEMS}

# One client at exactly 250 m, nothing random: the link can be computed by hand.
STILL = {
    "bandwidth_hz": 5e6,
    "radius_m": 250,
    "min_distance_m": 250,
    "speed_m_s": 0,
    "path_loss": "log_distance",
    "shadowing_db": 0,
    "fading": "none",
}


def changed(case: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one key changed (`cell.radius_m`), or taken out (None)."""
    key, dot, rest = path.partition(".")
    if dot:
        return {**case, key: changed(case.get(key, {}), rest, value)}
    return {name: entry for name, entry in {**case, key: value}.items() if entry is not None}
