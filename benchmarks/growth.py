"""Growth with the number of registered clients: peak memory and the main process's seconds.

    python benchmarks/growth.py [--registered 100 10000 100000] [--draw]

Two rounds of the built-in model with cohorts of 64 and moments kept, in a process of its own for
every number of registered clients, who share the same 100,000 training rows: whatever differs
between the rows of the table is due to registered clients alone. Peak memory is the process's
largest resident set. `--draw` draws the figure of the documents from this result and from that of
`step_speed.py --part growth`, and runs nothing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from reporting import RESULTS, report

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "growth.svg"
COHORT = 64
RUN = """
import json, resource, sys, tempfile, time
from pathlib import Path
from airtune import Experiment
registered, cohort = map(int, sys.argv[1:])
experiment = Experiment(
    clients={"count": registered}, cohort={"size": cohort}, rounds=2,
    training={"local_steps": 1, "batch_size": 1},
    data={"train_limit": 100_000, "test_limit": 16, "score_rows": 0},
    cell={"path_loss": "log_distance", "fading": "rayleigh"}, engine="batched", threads=1,
)
began = time.perf_counter()
run = experiment.run(Path(tempfile.mkdtemp()) / "run")
whole_run_s = time.perf_counter() - began
timing = [json.loads(line) for line in (run.folder.path / "timing.jsonl").read_text().splitlines()]
print(json.dumps({
    "registered": registered, "cohort": cohort,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "round_s": min(row["real_s"] for row in timing),
    "plan_s": min(row["stages"]["plan"] for row in timing),
    "whole_run_s": whole_run_s,
}))
"""


def measure(registered: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, "-c", RUN, str(registered), str(COHORT)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(row, flush=True)
    return row


def draw() -> None:
    """Time a client and step by cohort, and peak memory by registered clients."""
    from matplotlib.figure import Figure

    steps = json.loads((RESULTS / "growth.json").read_text())["rows"]
    memory = json.loads((RESULTS / "growth_registered.json").read_text())["rows"]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([row["clients"] for row in steps], [row["ms_per_client_step"] for row in steps], "o-")
    left.set(
        xscale="log",
        xlabel="clients in the cohort",
        ylabel="processor time of a client's step [ms]",
    )
    right.plot([row["registered"] for row in memory], [row["peak_mb"] for row in memory], "o-")
    right.set(
        xscale="log", xlabel=f"registered clients (cohorts of {COHORT})", ylabel="peak memory [MB]"
    )
    for axes in (left, right):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    figure.savefig(FIGURE)
    print(f"Wrote {FIGURE.name}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--registered", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--draw", action="store_true", help="only draw, from the results there are")
    options = parser.parse_args()
    if not options.draw:
        report("growth_registered", [measure(count) for count in options.registered])
    draw()


if __name__ == "__main__":
    main()
