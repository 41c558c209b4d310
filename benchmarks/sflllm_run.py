"""sflllm on experiments/sflllm.yaml: what the solvers are worth, and what the cut does to learning.

    plan    virtual seconds of 10 planned rounds, summed over seeds 0 to 2, for every solver, with
            the downlink planned, equal and free; no training
    learn   10 rounds of 3 steps of 4 examples by 5 clients, seeds 0 to 2, 60 test examples: joint
            (downlink planned), random (downlink equal), and fixed cuts with joint's allocation

The time to a target is that of the first round at or below it; all targets are shown, none chosen.

    python benchmarks/sflllm_run.py plan --band 40e6         # and 10e6
    python benchmarks/sflllm_run.py learn --runs FOLDER      # finished runs in it are not repeated
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from reporting import report

from airtune import Experiment
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.federated.observation import planning_view
from airtune.methods.sflllm.planner import RUN_SOLVERS

FILE = Path(__file__).parents[1] / "experiments" / "sflllm.yaml"
SEEDS, ROUNDS = (0, 1, 2), 10
TARGETS = (0.9, 0.8, 0.7, 0.6, 0.55)
SMALL = [
    "rounds=10",
    "training.local_steps=3",
    "training.batch_size=4",
    "data.test_limit=60",
    "data.score_rows=0",
    "threads=1",
    "training.keep_optimizer=false",
    "training.schedule=constant",
    "training.learning_rate=0.01",
]
ARMS = {
    "joint": ["sflllm.solver=joint", "sflllm.downlink=planned"],
    "random": ["sflllm.solver=random", "sflllm.downlink=equal"],
    "cut 6": ["sflllm.split_point=6"],
    "cut 11": ["sflllm.split_point=11"],
    "cut 1, half the rate": ["sflllm.split_point=1", "training.learning_rate=0.005"],
    "cut 11, half the rate": ["sflllm.split_point=11", "training.learning_rate=0.005"],
    "cut 1, copies": ["sflllm.split_point=1", "sflllm.server_side=copies"],
    "cut 1, kept": ["sflllm.split_point=1", "training.keep_optimizer=true"],
    "cut 11, kept": ["sflllm.split_point=11", "training.keep_optimizer=true"],
}


def plan(band_hz: float) -> None:
    rows = []
    for downlink in ("planned", "equal", "free"):
        totals = dict.fromkeys([s for s in RUN_SOLVERS if s != "random-rank"], 0.0)
        bound = 0.0
        for seed in SEEDS:
            settings = [
                f"seed={seed}",
                f"cell.bandwidth_hz={band_hz}",
                "threads=1",
                f"sflllm.downlink={downlink}",
                "data.test_limit=6",
            ]
            world = build_world(read_config(FILE, settings))
            views = [planning_view(world.context, index) for index in range(ROUNDS)]
            planner: Any = world.context.method.planner
            for solver in totals:
                plans = [replace(planner, solver=solver).plan(view, {}) for view in views]
                totals[solver] += sum(entry.predicted_latency_s for entry in plans)
                if solver == "joint":
                    bound += sum(entry.lower_bound_s for entry in plans)
        for solver, total in totals.items():
            rows.append(
                {
                    "downlink": downlink,
                    "solver": solver,
                    "seconds": total,
                    "joint_over_this": totals["joint"] / total,
                    "over_bound": total / bound,
                }
            )
    report(f"sflllm_plan_{band_hz / 1e6:.0f}mhz", rows, band_hz=band_hz, seeds=SEEDS, rounds=ROUNDS)


def learn(folder: Path) -> None:
    rows = []
    for arm, changes in ARMS.items():
        for seed in SEEDS:
            path = folder / f"{arm.replace(' ', '_').replace(',', '')}-{seed}"
            if not (path / "summary.json").exists():
                Experiment.load(FILE, [*SMALL, *changes, f"seed={seed}"]).run(path)
            records = [json.loads(line) for line in (path / "rounds.jsonl").open()]
            row: dict[str, Any] = {"arm": arm, "seed": seed}
            row["final_loss"] = records[-1]["test_loss"]
            row["mean_loss_of_last_3"] = sum(r["test_loss"] for r in records[-3:]) / 3
            row["virtual_s"] = records[-1]["virtual_time_s"]
            row["energy_j"] = sum(record["energy_j"] for record in records)
            for target in TARGETS:
                hits = [r["virtual_time_s"] for r in records if r["test_loss"] <= target]
                row[f"s_to_{target:g}"] = hits[0] if hits else None
            rows.append(row)
    report("sflllm_learn", rows, rounds=ROUNDS, test_examples=60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("plan", "learn"))
    parser.add_argument("--band", type=float, default=40e6)
    parser.add_argument("--runs", type=Path, default=Path("runs/sflllm"))
    given = parser.parse_args()
    plan(given.band) if given.part == "plan" else learn(given.runs)
