"""The section `soft_tsfa` of an experiment."""

from typing import Literal

from pydantic import Field

from airtune.section import Section


class SoftTsfaSection(Section):
    rank_search: bool = Field(
        False, description="choose adapter.rank in short runs before round 1 (the offline stage)"
    )
    truncated_share: float | None = Field(
        None, ge=0, le=1, description="of an update's energy, beyond adapter.rank; from rank_search"
    )
    solver: Literal["exact", "fixed-sparsity", "dense"] = Field(
        "exact", description="which ranks travel: exact (TSFA) | fixed-sparsity | dense"
    )
    sparsity: float = Field(
        0.5, ge=0, lt=1, description="share of the ranks removed (solver: fixed-sparsity)"
    )
    latency_target_s: float | None = Field(
        None, gt=0, description="long-term limit of the mean latency; null: derived before round 1"
    )
    target_share: float = Field(
        0.3, ge=0, le=1, description="where a derived target lies between fastest and dense round"
    )
    v: float | None = Field(
        None, ge=0, description="what a share of energy is worth [s^2]; null: derived"
    )
    virtual_queue: float | None = Field(
        None, ge=0, description="the queue before round 1 [s]; null: its stationary value"
    )
    outage_latency_s: float | None = Field(
        None, gt=0, description="who would end later with one rank is skipped; null: 5 x target"
    )
    penalty: float = Field(
        0.0, ge=0, description="strength of the orthogonality penalty (lam); 0: none"
    )
    penalty_form: Literal["relative", "raw"] = Field(
        "relative", description="relative (over the vectors' norms) | raw (the paper's; 1 to 1000)"
    )
    sparsifier: Literal["importance", "random", "top-k", "svd", "dense"] = Field(
        "importance", description="what is left out: by importance (SOFT), or to compare with it"
    )
    importance: Literal["change", "norm"] = Field(
        "change", description="of a rank: of its change in this round | its norm (the paper's)"
    )
    choice: Literal["drawn", "largest"] = Field(
        "drawn",
        description="ranks sent: drawn at random, by their energy | the largest (the paper's)",
    )
    selection: Literal["per-layer", "global"] = Field(
        "per-layer", description="ranks kept: the same number in every matrix | wherever they count"
    )
    error_feedback: bool = Field(
        False, description="what was left out is added to the client's next change; merge: mean"
    )
    merge: Literal["sent", "mean"] = Field(
        "sent", description="a rank's mean over those who sent it | over all (unsent: no change)"
    )
    orthogonalise: Literal["none", "svd"] = Field(
        "svd", description="svd: the server makes the merged factors orthogonal (loss unchanged)"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="updates on the air; int8 rounds at random"
    )
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


PLANNER_OPTIONS = (
    "solver",
    "sparsity",
    "latency_target_s",
    "v",
    "virtual_queue",
    "outage_latency_s",
    "target_share",
)
