"""The job with airtune: the same client side, backend and server parts as `airtune run` uses.

python benchmarks/peers/airtune_job.py JOB [--engine batched-workers] [--workers 2]
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

ENGINES = ("sequential", "batched", "workers", "batched-workers")
PRELOADED = ("torch", "transformers.modeling_utils", "peft", "airtune_side")


def run_round(side: Any, backend: Any, state: dict[str, Any], job: Any, index: int) -> Any:
    """Broadcast, train, collect, average."""
    from airtune.federated.backends.backend import ClientTask
    from airtune.round_plan import ClientPlan
    from airtune.update.server import Update

    plans = [ClientPlan(client, 1.0, 1.0, job.rank) for client in range(job.clients)]
    broadcast = side.method.downlink.encode(state, plans[0])
    tasks = [ClientTask(index, plan.client, plan, broadcast) for plan in plans]
    reports = {report.client: report for report in backend.run(tasks)}
    codec = side.method.codec.in_round(state)
    updates = [
        Update(
            plan.client,
            1.0,
            codec.decode(reports[plan.client].payload, side.shapes, plan),
            codec.trained(plan),
        )
        for plan in plans
    ]
    return side.method.aggregator.aggregate(state, updates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default="batched-workers")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    parallel = options.engine.endswith("workers")
    # As `airtune run`: workers begin to start before this process imports what it needs.
    from airtune.federated.backends.worker_host import WorkerHost

    host = WorkerHost(PRELOADED) if parallel else None
    import torch
    from airtune_side import make_backend, make_side
    from job import answer, held_out_loss, load, process_age_s, read_job, tree_processor_s

    from airtune.tuning.adapter import trained_parameters
    from airtune.tuning.base_model import usable_cores

    job = read_job(options.job)
    side = make_side(options.job, threads=1 if parallel else usable_cores())
    parameters = trained_parameters(side.model)
    start = torch.load(options.job / "start.pt")
    state = {name.replace(".default.", "."): value for name, value in start.items()}
    backend = make_backend(side, options.job, options.engine, options.workers, host)
    startup_s, rounds_s, processor_s = process_age_s(), [], []
    for index in range(job.rounds):
        began, used = time.perf_counter(), tree_processor_s()
        state = run_round(side, backend, state, job, index)
        rounds_s.append(time.perf_counter() - began)
        processor_s.append(tree_processor_s() - used)
    backend.close()
    load(parameters, state)
    loss = held_out_loss(side.model, options.job)
    answer(f"airtune {options.engine}", startup_s, rounds_s, loss, processor_s)


if __name__ == "__main__":
    main()
