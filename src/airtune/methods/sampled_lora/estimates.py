"""What the planner believes of the clients' updates, and how it learns it.

The server decodes every update, so it measures norms and cosines itself: no bit is reported.
"""

from collections.abc import Mapping
from dataclasses import asdict
from math import sqrt
from typing import Any

import numpy as np
import torch

from airtune.federated.method import Exchange
from airtune.methods.sampled_lora.recorded import Measured
from airtune.quantities import FloatArray

NORMS, ALIGNMENT = "norms", "alignment"
PRIOR_ALIGNMENT = 0.5
WEIGHT = 0.5
"""Of the newest measurement in a running mean."""


def measured(exchange: Exchange) -> dict[str, Any]:
    """Norms and mean cosine of a round's updates."""
    vectors = [
        torch.cat([tensor.double().flatten() for _, tensor in sorted(update.change.items())])
        for update in exchange.updates
    ]
    if not vectors:
        return asdict(Measured(None, None))
    norms = {
        str(update.client): float(vector.norm()) * sqrt(_kept_share(exchange, update.client))
        for update, vector in zip(exchange.updates, vectors, strict=True)
    }
    return asdict(Measured(norms, _mean_cosine(vectors)))


def _kept_share(exchange: Exchange, client: int) -> float:
    """k / r: decoded times r / k, the k ranks' part of the squared norm is r / k of the whole."""
    rank = max(len(x) for name, x in exchange.start.items() if ".lora_A." in name)
    return min(exchange.plans[client].rank / rank, 1.0)


def _mean_cosine(vectors: list[torch.Tensor]) -> float | None:
    """Of all pairs, from the norm of the sum of the directions."""
    directions = [vector / vector.norm() for vector in vectors if float(vector.norm()) > 0]
    count = len(directions)
    if count < 2:
        return None
    total = torch.zeros_like(directions[0])
    for direction in directions:
        total += direction
    return (float(total.square().sum()) - count) / (count * (count - 1))


def learned(state: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The estimates after a round: running means of what was measured."""
    found = record.get("measured") or {}
    norms = dict(state.get(NORMS, {}))
    for client, norm in (found.get("update_norm") or {}).items():
        norms[client] = _mixed(norms.get(client), norm)
    cosine = found.get("alignment")
    alignment = state.get(ALIGNMENT)
    if cosine is not None:
        alignment = _mixed(alignment, min(max(cosine, 0.0), 1.0))
    return {**state, NORMS: norms, ALIGNMENT: alignment}


def _mixed(before: float | None, now: float) -> float:
    return now if before is None else (1.0 - WEIGHT) * before + WEIGHT * now


def norms_of(state: Mapping[str, Any], clients: list[int]) -> FloatArray:
    """G [client], relative to their mean: a client that was never seen has that of the others."""
    known: Mapping[str, float] = state.get(NORMS, {})
    values = np.array([known.get(str(client), np.nan) for client in clients])
    mean = float(np.nanmean(values)) if np.isfinite(values).any() else 1.0
    if not mean > 0:
        return np.ones(len(clients))
    # A client whose update happened to be 0 must not be left out for ever.
    return np.maximum(np.where(np.isnan(values), mean, values) / mean, 1e-3)
