"""Random problems of split training, brute force over them, and the total by plain loops."""

import numpy as np

from airtune.allocation.split.problem import SplitCandidate, SplitPlan, SplitTraining
from airtune.allocation.subchannels.power import Uplink
from airtune.quantities import FloatArray
from tests.allocation.subchannel_cases import random_link, windows_of_all

BATCH, SERVER_FLOP_RATE = 4, 1e12


def random_candidates(
    rng: np.random.Generator, count: int, client_flop_rate: FloatArray
) -> tuple[SplitCandidate, ...]:
    """Split points 1.., ranks 2, 4, ...: more blocks cost the client more, as in a real model."""
    return tuple(
        SplitCandidate(
            split_point=1 + index // 2,
            rank=2 ** (1 + index % 2),
            rounds=float(rng.integers(10, 60)),
            client_forward_s=BATCH * rng.uniform(1, 3) * 1e9 * (1 + index // 2) / client_flop_rate,
            client_backward_s=BATCH * rng.uniform(1, 3) * 1e9 / client_flop_rate,
            server_s=len(client_flop_rate)
            * BATCH
            * (rng.uniform(1, 9) + rng.uniform(1, 9))
            * 1e9
            / SERVER_FLOP_RATE,
            activation_bits=float(BATCH * 10 ** rng.uniform(4, 5.5)),
            gradient_bits=float(BATCH * rng.integers(0, 2) * 1e4),
            adapter_bits=float(10 ** rng.uniform(4, 6) * (1 + index % 2)),
        )
        for index in range(count)
    )


def random_training(
    seed: int,
    clients: int,
    subchannels: int,
    flat: bool = False,
    candidates: int = 4,
    round_trip_s: float = 0.0,
) -> SplitTraining:
    rng = np.random.default_rng(seed)
    client_flop_rate = rng.uniform(1, 3, clients) * 1e11
    return SplitTraining(
        local_steps=5,
        main=random_link(rng, clients, subchannels, flat),
        federated=random_link(rng, clients, subchannels, flat),
        candidates=random_candidates(rng, candidates, client_flop_rate),
        downlink_rate_bps=rng.uniform(1e6, 1e8, clients),
        names=tuple("abcdefghijklmnopqrstuvwxyz"[:clients]) if clients <= 26 else (),
        round_trip_s=round_trip_s,
    )


def brute_force_total_s(training: SplitTraining) -> float:
    """The optimum over all candidates and all assignments of both links, powers exact."""
    best = np.inf
    for candidate in training.candidates:
        main, federated = training.main_demand(candidate), training.federated_demand(candidate)
        step = main.deadline(float(windows_of_all(training.main, main).min()))
        upload = federated.deadline(float(windows_of_all(training.federated, federated).min()))
        best = min(best, training.total_s(candidate, step, upload))
    return best


def plain_total_s(training: SplitTraining, plan: SplitPlan) -> float:
    """The published formula, client by client, from the plan's densities."""
    c = training.candidates[plan.candidate]
    clients = range(training.clients)
    assert training.downlink_rate_bps is not None

    def rate(link: Uplink, owner: np.ndarray, psd: np.ndarray, k: int) -> float:
        carried = (
            link.bandwidth_hz[i] * np.log2(1 + psd[i] / link.noise_to_gain[k, i])
            for i in range(link.subchannels)
            if owner[i] == k
        )
        return float(sum(carried))

    main = [rate(training.main, plan.main.owner, plan.main.psd_w_per_hz, k) for k in clients]
    other = [
        rate(training.federated, plan.federated.owner, plan.federated.psd_w_per_hz, k)
        for k in clients
    ]
    down = training.downlink_rate_bps
    forward_s, backward_s = (
        np.broadcast_to(seconds, training.clients)
        for seconds in (c.client_forward_s, c.client_backward_s)
    )
    trip_s = training.round_trip_s
    first = max(forward_s[k] + trip_s + c.activation_bits / main[k] for k in clients)
    fetch_s = [trip_s + c.gradient_bits / down[k] if c.gradient_bits else 0.0 for k in clients]
    step = first + c.server_s + max(fetch_s[k] + backward_s[k] for k in clients)
    upload = max(trip_s + c.adapter_bits / other[k] for k in clients)
    download = max(trip_s + c.adapter_bits / down[k] for k in clients)
    return float(c.rounds * (training.local_steps * step + upload + download))
