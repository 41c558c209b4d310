"""Federated averaging of LoRA over a radio cell in plain lines: the slow twin of `airtune run`.

    python examples/one_round.py [key=value ...]

A round is: observe the channel, plan the band, broadcast, train, encode, charge time and energy,
decode, average, evaluate. `airtune/federated/round.py` does the same for every method, engine and
deadline, with checks; this file does it for `method: fedlora` on the built-in model and task, with
all clients in every round, one after another. `tests/test_examples.py` compares its numbers with
the records of `airtune run --set engine=sequential --set threads=1`. Settings are those of
`airtune run --set`: rounds, seed, the cell, the clients, `training`, `fedlora`'s number formats,
the adapter's rank and alpha, and the limits of `data` count; other keys have no effect here.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import energy_j, load_devices
from airtune.data.batches import Batch, local_batches, make_batch, rows_alike
from airtune.data.encoding import Encoded, encode
from airtune.data.partition import Partition, partition
from airtune.data.sources import SourceOptions, load_task_data
from airtune.experiment.learning_rate import learning_rate
from airtune.experiment.reading import read_config
from airtune.methods.fedlora.options import FedloraSection
from airtune.quantities import FloatArray, dbm_to_watts
from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterSettings, attach, initial_state, load_state
from airtune.tuning.base_model import load_base
from airtune.tuning.evaluate import evaluate
from airtune.tuning.label_loss import TOKENS_AT_ONCE
from airtune.tuning.local import Schedule, TrainingSettings, train_locally
from airtune.update.codec import DenseCodec, shapes_of
from airtune.wireless.channel import Channel, ChannelState, open_channel
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Architecture
from airtune.workload.step import Step
from airtune.workload.transformer import workload


@dataclass(frozen=True)
class Federation:
    """What stays the same from round to round; arrays have the axis [client]."""

    model: Any
    architecture: Architecture
    adapted: AdapterShape
    train: Encoded
    shards: Partition
    pad: int
    test_batches: list[Batch]
    channel: Channel
    flop_rate: FloatArray  # FLOP/s, sustained
    computing_w: FloatArray
    tx_power_w: FloatArray
    training: TrainingSettings


def set_up(config: ExperimentConfig) -> Federation:
    """The built-in model and task, the cell and its devices."""
    data, local, count = config.data, config.training, config.clients.count
    base = load_base("builtin")
    pad = base.tokenizer.pad_token_id
    limits = SourceOptions(train_limit=data.train_limit, test_limit=data.test_limit)
    task = load_task_data("builtin", None, limits, config.seed)
    train = encode(base.tokenizer, task.train, data.max_tokens, task.separator)
    test = encode(base.tokenizer, task.test, data.max_tokens, task.separator)
    # Clients share the rows that the encoder kept, which may be fewer than there are.
    kept = [task.train[row] for row in train.example]
    kinds = [load_devices()[name] for name in config.clients.devices]
    devices = [kinds[k % len(kinds)] for k in range(count)]
    # A client transmits at the cell's limit or its modem's, the lower one.
    limit_dbm = [min(device.tx_power_dbm, config.cell.tx_power_dbm) for device in devices]
    return Federation(
        model=attach(base, AdapterSettings(config.adapter.rank, config.adapter.alpha)),
        architecture=Architecture.from_config(base.config),
        adapted=AdapterShape(config.adapter.rank),
        train=train,
        shards=partition(kept, count, seed=config.seed),
        pad=pad,
        test_batches=[
            make_batch(test, rows, pad) for rows in rows_alike(test.length, TOKENS_AT_ONCE["cpu"])
        ],
        channel=open_channel(config.cell, count, config.seed),
        flop_rate=np.array([device.training_flop_rate for device in devices]),
        computing_w=np.array([device.computing_power_w for device in devices], dtype=np.float64),
        tx_power_w=dbm_to_watts(np.array(limit_dbm)),
        training=TrainingSettings(
            local.optimizer,
            learning_rate(config, Architecture.from_config(base.config)),
            local.batch_size,
            local.local_steps,
            local.max_grad_norm,
            local.keep_optimizer,
            Schedule(local.schedule, config.rounds, local.warmup_rounds),
        ),
    )


def rounds(config: ExperimentConfig) -> Iterator[dict[str, float]]:
    """The record of each round: losses [nat], latency [s], payloads [bit] and energy [J]."""
    torch.set_num_threads(1)  # several may sum in another order
    fed, clients = set_up(config), range(config.clients.count)
    options = config.section(FedloraSection)
    up, down = DenseCodec(options.uplink_dtype), DenseCodec(options.downlink_dtype)
    adapter, band_hz = initial_state(fed.model, config.seed), config.cell.bandwidth_hz
    shapes, rows = shapes_of(adapter), fed.shards.sizes.astype(np.float64)
    moments: list[dict[str, torch.Tensor]] = [{} for _ in clients]

    for index in range(config.rounds):
        # Batches are drawn from (seed, round, client), so the costs are known before training.
        batches = [batches_of(fed, config.seed, index, k) for k in clients]
        flops = [sum(step_flops(fed, batch) for batch in own) for own in batches]
        compute_s = np.array(flops) / fed.flop_rate

        # Plan on the estimated channel: the division of the band that ends the round soonest. The
        # codec predicts a payload's length from shapes, exactly.
        observation = fed.channel.observe(index)
        plans = [ClientPlan(k, 0.0, fed.tx_power_w[k], fed.adapted.rank) for k in clients]
        predicted_bits = [up.payload_bits(shapes, plan) for plan in plans]
        broadcast = down.encode(adapter, plans[0])
        ready_s = multicast_s(broadcast, observation.estimate, band_hz) + compute_s
        links = observation.estimate.uplink(fed.tx_power_w)
        planned = minmax_bandwidth(links, predicted_bits, ready_s, band_hz).plan
        assert planned is not None, "every client of this cell has a signal"

        # Every client trains from the broadcast as it arrived and encodes its change.
        start, training = down.decode(broadcast, shapes, plans[0]), fed.training.in_round(index)
        losses, payloads = [], []
        for k in clients:
            drawn_from = (config.seed, index, k)
            result = train_locally(fed.model, start, batches[k], training, drawn_from, moments[k])
            change = {name: result.state[name] - value for name, value in start.items()}
            losses.append(result.mean_loss)
            payloads.append(up.encode(change, plans[k]))
            moments[k] = result.carried

        # Charge the true channel and the bytes really encoded; the last client ends the round.
        truth, sent_bits = observation.truth, np.array([8 * len(sent) for sent in payloads])
        broadcast_s = multicast_s(broadcast, truth, band_hz)
        upload_s = sent_bits / truth.uplink(fed.tx_power_w).rate(planned.bandwidth_hz)
        spent_j = energy_j(compute_s, upload_s, fed.computing_w, fed.tx_power_w)

        # FedAvg: A <- A + sum_k w_k dA_k, and B likewise, with w_k the client's share of the rows;
        # in fp64 and in the order of the clients, so that no engine sums in another order.
        changes = [up.decode(payloads[k], shapes, plans[k]) for k in clients]
        for name, value in adapter.items():
            mean = sum(rows[k] / rows.sum() * changes[k][name].double() for k in clients)
            adapter[name] = (value.double() + mean).float()
        load_state(fed.model, adapter)
        yield {
            "round": index + 1,
            "latency_s": (broadcast_s + compute_s + upload_s).max(),
            "train_loss": sum(rows * losses) / rows.sum(),
            "test_loss": evaluate(fed.model, fed.test_batches).loss,
            "uplink_bits": sent_bits.sum(),
            "downlink_bits": 8 * len(broadcast),
            "energy_j": sum(spent_j),
        }


def batches_of(fed: Federation, seed: int, index: int, client: int) -> list[Batch]:
    """What a client trains on in a round, a batch for each local step."""
    size, steps = fed.training.batch_size, fed.training.local_steps
    drawn = local_batches(fed.shards[client], size, steps, seed, index, client)
    return [make_batch(fed.train, rows, fed.pad) for rows in drawn]


def step_flops(fed: Federation, batch: Batch) -> float:
    """Forward and backward of one optimiser step [FLOP], with logits at labels only."""
    rows, tokens = batch.token_ids.shape
    step = Step(rows, tokens, label_tokens=batch.label_tokens)
    return workload(fed.architecture, fed.adapted, step).flops


def multicast_s(payload: bytes, state: ChannelState, band_hz: float) -> float:
    """Delay of one transmission to all clients, at the rate of the worst link [s]."""
    rate_bps = state.downlink().rate(np.full(len(state), band_hz))
    return float(8 * len(payload) / rate_bps.min())


if __name__ == "__main__":
    for record in rounds(read_config(None, sys.argv[1:])):
        print("  ".join(f"{name} {value:.6g}" for name, value in record.items()), flush=True)
