"""Seeded mutants of experiment files, made by the same slips as those of problem files.

A driver of its own (`python -m tests.fuzz.experiments 0 200`) imports what a dry run needs once,
and forks for each mutant; it prints one JSON object a line.
"""

import json
import os
import sys
import tempfile
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.forked import run_forked
from tests.fuzz.mutants import MUTATIONS, WEIGHTS, Random, _torn, emit

SMALL: dict[str, Any] = {
    "model": "builtin",
    "threads": 1,
    "engine": "sequential",
    "rounds": 3,
    "seed": 0,
    "clients": {"count": 3, "devices": ["laptop-cpu", "pixel-9"]},
    "adapter": {"rank": 2, "alpha": 4.0, "dropout": 0.0},
    "training": {"local_steps": 1, "batch_size": 2, "learning_rate": 0.01, "max_grad_norm": 1.0},
    "data": {"train": "rows.jsonl", "test_limit": 6, "score_rows": 0, "max_tokens": 64},
    "cell": {
        "path_loss": "log_distance",
        "bandwidth_hz": 3e6,
        "radius_m": 200.0,
        "speed_m_s": 1.0,
        "round_interval_s": 10.0,
        "tx_power_dbm": 23.0,
        "bs_tx_power_dbm": 33.0,
        "noise_figure_db": 5.0,
        "shadowing_db": 8.0,
    },
}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"method": "fedlora", "fedlora": {"bandwidth": "equal", "uplink_dtype": "fp16"}},
    {"cell": {"path_loss": "umi", "fading": "rayleigh", "carrier_hz": 3.5e9, "radius_m": 150}},
    {"cell": {"path_loss": "free_space", "fading": "rician", "csi_error_db": 2.0}},
    {"cell": {"trace": "trace.csv", "trace_bandwidth_hz": 20e6}},
    {"data": {"train": "rows.csv", "format": "table", "prompt_column": "question",
              "completion_column": "reply"}},
    {"data": {"train": "builtin", "train_limit": 40,
              "partition": {"kind": "dirichlet", "concentration": 5.0}}},
    {"method": "jcpba", "jcpba": {"pruning_budget": 0.3, "solver": "exact"}},
    {"method": "soft_tsfa", "soft_tsfa": {"latency_target_s": 2.0, "sparsifier": "importance"}},
    {"method": "hetlora", "hetlora": {"rank_min": 2}, "adapter": {"rank": 4}},
    {"method": "ffa_lora", "adapter": {"rank": 4, "alpha": 8.0}},
    {"method": "sflllm", "sflllm": {"split_point": 1, "main_subchannels": 6,
                                    "federated_subchannels": 6, "server_flop_rate": 1e13}},
    {"method": "centralised"},
    {"adapter": {"kind": "full"}, "training": {"learning_rate": 0.003}},
    {"adapter": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}}},
    {"charge_as": "gpt2", "clients": {"devices": ["laptop-cpu"]}},
    {"cohort": {"size": 2, "dropout": 0.1}, "deadline_s": 30.0, "stop": {"energy_j": 1e4}},
    {"server": {"optimizer": "adam", "learning_rate": 0.01}, "clients": {"device_file": "own.yaml",
                                                                         "devices": ["own"]}},
    {"codec": {"use": "dense", "dtype": "bf16"}, "planner": {"use": "bandwidth"}},
)  # fmt: skip
CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("fedlora", "jcpba", "soft_tsfa", "hetlora", "ffa_lora", "sflllm", "tsfa"),
    "dtype": ("fp32", "bf16", "fp16", "int8"),
    "seed": (1, 10**9, 2**70, -1),
    "device": ("auto", "cpu", "cuda"),
    "charge_as": ("gpt2", "llama-3.2-1b", "builtin", "nothing", "a/b"),
    "model": ("gpt2", "llama-3.1-8b", "rows.csv", ".", "no/such-model", "builtin"),
    "codec": ("dense", "int8", "top-k", {"use": "dense"}, "json:loads", "missing.module:Class"),
    "aggregator": ("factor-mean", "overlap-mean", "mean"),
    "tuner": ("full", "pruned", {"use": "full", "x": 1}),
    "engine": ("auto", "batched", "sequential", "fast"),
    "cell": ({"path_loss": "rma"}, {"path_loss": "uma", "radius_m": 800.0}, None, 5),
    "training": ({"optimizer": "sgd", "schedule": "linear"}, {"warmup_rounds": 1}),
    "rounds": (1, 2, 99_999, 10**6),
    "extra_key": (1,),
    "stop": ({"target_loss": 1.0}, {"virtual_time_s": 1e-30}),
}
"""Values that a person might set on the command line."""
ROWS = 48


def mutant(seed: int) -> tuple[str, list[str]]:
    """The text of an experiment file, and `--set` arguments."""
    rng = np.random.default_rng([11, seed])
    content = _merged(SMALL, KINDS[rng.integers(len(KINDS))])
    for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
        MUTATIONS[rng.choice(len(MUTATIONS), p=WEIGHTS)](rng, content)
    text = emit(content)
    if rng.random() < 0.04:
        text = _torn(rng, text)
    return text, _settings(rng)


def _settings(rng: Random) -> list[str]:
    if rng.random() > 0.35:
        return []
    key = str(rng.choice(list(CHOICES)))
    value = CHOICES[key][rng.integers(len(CHOICES[key]))]
    return ["--set", f"{key}={json.dumps(value)}"]


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = deepcopy(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        # LoRA's keys would have no effect there, and are refused.
        nested = nested and value.get("kind") != "full"
        result[key] = _merged(result[key], value) if nested else deepcopy(value)
    return result


def write_data(folder: Path) -> None:
    """Data, a trace and a device file that the experiments name."""
    rows = [{"prompt": f"{n} plus {n + 3} is", "completion": f"{2 * n + 3}."} for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = "".join(f"what is {n},it is {n}\n" for n in range(ROWS))
    (folder / "rows.csv").write_text("question,reply\n" + table)
    trace = "".join(f"{t},{20 + 5 * (t % 3)}\n" for t in range(40))
    (folder / "trace.csv").write_text("time_s,throughput_mbps\n" + trace)
    (folder / "own.yaml").write_text(
        "own:\n  training_flop_rate: 2.0e10\n  memory_bytes: 8.0e9\n  computing_power_w: 5\n"
        "  tx_power_dbm: 23\n  sources: {training_flop_rate: assumed, memory_bytes: assumed, "
        "computing_power_w: assumed, tx_power_dbm: assumed}\n"
    )


def main(seeds: range) -> None:
    """Dry runs of the mutants, one JSON object a line."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Imported once, before any fork; nothing is computed, so that no thread pool is lost in a fork.
    import peft  # noqa: F401
    import sionna.phy  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import airtune.cli.main
    import airtune.cli.terminal
    import airtune.wireless.tr38901  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        write_data(Path())
        for seed in seeds:
            text, settings = mutant(seed)
            Path("experiment.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
            ended = run_forked(["run", "experiment.yaml", "--dry-run", *settings])
            print(json.dumps({"seed": seed, "set": settings, **asdict(ended)}), flush=True)


if __name__ == "__main__":
    main(range(*map(int, sys.argv[1:])))
