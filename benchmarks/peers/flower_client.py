"""Flower's client for the job, in a module of its own: what is imported stays in the actor."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from job import load, load_model, read_job, train

_KEPT: dict[str, Any] = {}
client_app = ClientApp()


def _kept() -> dict[str, Any]:
    """Model, job and tokens, made once in a process."""
    if not _KEPT:
        torch.set_num_threads(1)
        folder = Path(os.environ["PEER_JOB"])
        job = read_job(folder)
        model, parameters = load_model(job)
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        _KEPT.update(job=job, model=model, parameters=parameters, tokens=tokens)
    return _KEPT


@client_app.train()  # type: ignore[untyped-decorator]
def train_client(message: Message, context: Context) -> Message:
    """A client's part of a round."""
    kept = _kept()
    load(kept["parameters"], message.content["adapter"].to_torch_state_dict())
    index = int(message.metadata.group_id)
    client = int(context.node_config["partition-id"])
    batches = np.array(kept["tokens"][index, client])
    state = train(kept["model"], kept["parameters"], batches, kept["job"].learning_rate)
    return Message(RecordDict({"adapter": ArrayRecord(state)}), reply_to=message)
