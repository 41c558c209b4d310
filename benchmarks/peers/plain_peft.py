"""The job with plain PEFT: one model, clients one after another.

python benchmarks/peers/plain_peft.py JOB [--threads N]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from job import (
    answer,
    held_out_loss,
    load,
    load_model,
    mean_state,
    process_age_s,
    read_job,
    train,
    tree_processor_s,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    job = read_job(options.job)
    tokens = np.load(options.job / "tokens.npy")
    model, parameters = load_model(job)
    state = torch.load(options.job / "start.pt")
    startup_s, rounds_s, processor_s = process_age_s(), [], []
    for cohort in tokens:
        began, used = time.perf_counter(), tree_processor_s()
        states = []
        for batches in cohort:
            load(parameters, state)
            states.append(train(model, parameters, batches, job.learning_rate))
        state = mean_state(states)
        rounds_s.append(time.perf_counter() - began)
        processor_s.append(tree_processor_s() - used)
    load(parameters, state)
    answer(
        f"plain peft, {torch.get_num_threads()} threads",
        startup_s,
        rounds_s,
        held_out_loss(model, options.job),
        processor_s,
    )


if __name__ == "__main__":
    main()
