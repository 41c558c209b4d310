"""The options of each learning method: a section of the experiment file per method."""

from typing import Literal

from pydantic import Field

from airtune.config_section import Section


class FedloraSection(Section):
    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="minmax (least round latency) | equal | random"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="updates on the air")
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class JcpbaSection(Section):
    solver: Literal["exact", "bcd", "equal", "uniform-pruning", "no-pruning", "none"] = Field(
        "exact", description="as in airtune plan: exact | bcd | equal | uniform-pruning | ..."
    )
    pruning_budget: float = Field(
        0.3, ge=0, lt=1, description="the mean pruning rate (by weight) may not exceed it"
    )
    budget_search: bool = Field(
        False, description="choose pruning_budget in short runs before round 1"
    )
    pruning_rate_max: float = Field(0.9, ge=0, lt=1, description="no client is pruned further")
    importance: Literal["weights", "activations", "random"] = Field(
        "weights", description="which units go first: small weights | small activations | random"
    )
    calibration: str = Field(
        "builtin", description="public rows for importance: activations; a source as in data.train"
    )
    calibration_rows: int = Field(32, ge=1, description="how many of them")
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="updates on the air"
    )


class SoftTsfaSection(Section):
    rank_search: bool = Field(
        False, description="choose adapter.rank in short runs before round 1 (the offline stage)"
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
        0.3, ge=0, description="strength of the orthogonality penalty (lam); 0: none"
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
    selection: Literal["per-layer", "global"] = Field(
        "per-layer", description="ranks kept: the same number in every matrix | wherever they count"
    )
    error_feedback: bool = Field(
        False, description="what was left out is added to the client's next change"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="updates on the air"
    )
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class HetloraSection(Section):
    rank_min: int = Field(
        2, ge=1, description="rank of the slowest device; the fastest gets adapter.rank"
    )
    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="minmax (least round latency) | equal | random"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="updates on the air")
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class FfaLoraSection(Section):
    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="minmax (least round latency) | equal | random"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="updates on the air")
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast factor B on the air"
    )
