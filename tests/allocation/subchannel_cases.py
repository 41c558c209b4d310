"""Random links and demands, and brute force over all assignments as the oracle."""

import itertools

import numpy as np

from airtune.allocation.subchannels.power import Demand, Owners, Uplink, WaterFilling, least_window
from airtune.quantities import FloatArray


def random_link(
    rng: np.random.Generator, clients: int, subchannels: int, flat: bool = False
) -> Uplink:
    noise = 10 ** rng.uniform(-12, -7, (clients, 1)) * np.ones(subchannels)
    width = np.full(subchannels, 5e5)
    if not flat:
        noise = noise / rng.exponential(1, (clients, subchannels))
        width = rng.uniform(0.2, 1, subchannels) * 1e6
    caps = rng.uniform(0.01, 0.2, clients)
    return Uplink(width, noise, caps, float(rng.uniform(0.3, 1.2) * caps.sum()))


def random_demand(rng: np.random.Generator, clients: int) -> Demand:
    return Demand(10 ** rng.uniform(5, 6, clients), rng.uniform(0, 1, clients))


def window_of(link: Uplink, demand: Demand, owner: Owners) -> float:
    return float(least_window(WaterFilling.of_owners(link, owner), link, demand))


def all_assignments(clients: int, subchannels: int) -> Owners:
    """Every way to give each subchannel to a client, each client at least one [way, subchannel]."""
    table = np.array(list(itertools.product(range(clients), repeat=subchannels)))
    kept = np.all([np.any(table == k, axis=1) for k in range(clients)], axis=0)
    return table[kept]


def windows_of_all(link: Uplink, demand: Demand) -> FloatArray:
    """The window of every assignment [way], with exact power control."""
    table = all_assignments(link.clients, link.subchannels)
    mine = table[:, None, :] == np.arange(link.clients)[:, None]
    width = np.where(mine, link.bandwidth_hz, 0.0)
    noise = np.where(mine, link.noise_to_gain, np.inf)
    return least_window(WaterFilling.of_slots(width, noise), link, demand)
