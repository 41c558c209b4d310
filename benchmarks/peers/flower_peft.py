"""The job with Flower's simulation engine (Ray) and a PEFT client, one actor per core.

    python benchmarks/peers/flower_peft.py JOB [--actors 2]

The client keeps its model in the actor's process and does not load it again for every message,
which is the best that a careful user of Flower can do. `send_and_receive` is asked every 10 ms for
replies, not every 3 s as by default.
"""

import argparse
import os
import time
from pathlib import Path

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

import torch
from flower_client import client_app
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from job import answer, held_out_loss, load, load_model, mean_state, process_age_s, read_job

server_app = ServerApp()


@server_app.main()  # type: ignore[untyped-decorator]
def serve(grid: Grid, context: Context) -> None:
    """Federated averaging over all nodes."""
    folder = Path(os.environ["PEER_JOB"])
    job = read_job(folder)
    state = torch.load(folder / "start.pt")
    nodes: list[int] = []
    while len(nodes) < job.clients:
        nodes = list(grid.get_node_ids())
        time.sleep(0.01)
    startup_s, rounds_s = process_age_s(), []
    for index in range(job.rounds):
        began = time.perf_counter()
        sent = [
            Message(
                RecordDict({"adapter": ArrayRecord(state)}),
                dst_node_id=node,
                message_type="train",
                group_id=str(index),
            )
            for node in nodes
        ]
        waiting, replies = set(grid.push_messages(sent)), []
        while waiting:
            for reply in grid.pull_messages(waiting):
                if reply.has_error():
                    raise SystemExit(f"a client failed: {reply.error.reason}")
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply.content["adapter"].to_torch_state_dict())
            time.sleep(0.01)
        state = mean_state(replies)
        rounds_s.append(time.perf_counter() - began)
    model, parameters = load_model(job)
    load(parameters, state)
    answer("flower", startup_s, rounds_s, held_out_loss(model, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--actors", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ["PEER_JOB"] = str(options.job.resolve())
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = here
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=read_job(options.job).clients,
        backend_config={
            "client_resources": {"num_cpus": os.cpu_count() / options.actors, "num_gpus": 0.0},
            "init_args": {"num_cpus": os.cpu_count(), "logging_level": "warning"},
        },
    )


if __name__ == "__main__":
    main()
