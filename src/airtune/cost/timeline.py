"""A round of a split model on a clock: every client's stages in order, and the waiting between
them.

    T = broadcast + sum over steps of ( max_k (forward_k + activations up_k) + server forward
                                        + max_k (hidden down_k + head_k + its gradient up_k)
                                        + server backward + max_k (gradient down_k + backward_k) )
        + max_k adapter up_k

The middle maximum is 0 unless labels stay at the clients. In the manner of SflLLM (Zhao et al.,
arXiv 2504.14667, the total training delay), with a maximum for every local step, because batches
differ. Left out: the servers' links to each other, encoding, decoding and averaging.
"""

from dataclasses import dataclass

import numpy as np

from airtune.cost.latency import missed
from airtune.quantities import FloatArray

STAGES = (
    "broadcast",
    "forward",
    "activations",
    "hidden",
    "head",
    "hidden_gradient",
    "gradient",
    "backward",
    "adapter",
)
"""What a client does or receives itself, in the order of a step."""
SERVER, WAIT = "server", "wait"
"""Stages that only pass: the main server computes, or other clients are behind."""


@dataclass(frozen=True)
class StepDelays:
    """Seconds of every local step; arrays have the axes [step, client], the server's [step]."""

    forward_s: FloatArray
    activations_s: FloatArray
    hidden_s: FloatArray
    head_s: FloatArray
    hidden_gradient_s: FloatArray
    gradient_s: FloatArray
    backward_s: FloatArray
    server_forward_s: FloatArray
    server_backward_s: FloatArray


@dataclass(frozen=True)
class Timeline:
    """Segments of the round, one after another for every client; `seconds` [segment, client].

    `stages` names each segment, `step` gives its local step (-1 outside the steps).
    """

    stages: tuple[str, ...]
    step: tuple[int, ...]
    seconds: FloatArray

    @property
    def finish_s(self) -> FloatArray:
        """When each client is done, from the start of the round [client]."""
        total: FloatArray = self.seconds.sum(axis=0)
        return total

    def until(self, deadline_s: float) -> "Timeline":
        """What was spent in each segment by the deadline, at which all clients stop."""
        ends = np.minimum(np.cumsum(self.seconds, axis=0), deadline_s)
        cut = np.diff(ends, axis=0, prepend=0.0)
        # A client in time spent exactly its delays, free of the rounding of sums and differences.
        seconds = np.where(missed(self.finish_s, deadline_s), cut, self.seconds)
        return Timeline(self.stages, self.step, seconds)

    def of(self, stage: str) -> FloatArray:
        """Seconds in a stage over all steps [client]."""
        chosen = [k for k, name in enumerate(self.stages) if name == stage]
        total: FloatArray = self.seconds[chosen].sum(axis=0)
        return total

    def own_stages(self) -> FloatArray:
        """Seconds of each client's own stages [stage, client], in the order of STAGES."""
        return np.stack([self.of(stage) for stage in STAGES])


def split_timeline(broadcast_s: FloatArray, steps: StepDelays, adapter_s: FloatArray) -> Timeline:
    """The module's formula as segments; all clients begin a step when the last one is ready."""
    count = len(broadcast_s)
    stages, step, seconds = ["broadcast"], [-1], [broadcast_s]

    def wait(since: int, index: int) -> None:
        spent = np.sum(seconds[since:], axis=0)
        # Two clients that never end do not wait for each other.
        with np.errstate(invalid="ignore"):
            late = np.where(np.isfinite(spent), spent.max() - spent, 0.0)
        stages.append(WAIT)
        step.append(index)
        seconds.append(late)

    wait(0, -1)
    phases: tuple[tuple[tuple[str, ...], str | None], ...] = (
        (("forward", "activations"), "server_forward_s"),
        (("hidden", "head", "hidden_gradient"), "server_backward_s"),
        (("gradient", "backward"), None),
    )
    for index in range(len(steps.server_forward_s)):
        for own, server in phases:
            since = len(seconds)
            for stage in own:
                stages.append(stage)
                step.append(index)
                seconds.append(getattr(steps, f"{stage}_s")[index])
            wait(since, index)
            if server is not None:
                stages.append(SERVER)
                step.append(index)
                seconds.append(np.full(count, getattr(steps, server)[index]))
    return Timeline(
        (*stages, "adapter"), (*step, -1), np.stack([*seconds, adapter_s]).astype(np.float64)
    )
