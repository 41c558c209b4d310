"""The options of each learning method: a section of the experiment file per method."""

from typing import Literal

from pydantic import Field, model_validator

from airtune.config.section import Section
from airtune.quantities import SERVER_FLOP_RATE, UsualRange, read_meant, refuse_unusual


class DenseSection(Section):
    """Methods that divide the band by a rule and send every coordinate they train."""

    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="minmax (least round latency) | equal | random"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="updates on the air")
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class FedloraSection(DenseSection):
    pass


class SflllmSection(Section):
    solver: Literal[
        "joint",
        "greedy",
        "random",
        "random-subchannels",
        "random-power",
        "random-split-point",
        "random-rank",
    ] = Field("joint", description="as in airtune plan: joint | greedy | random | random-...")
    split_point: int | None = Field(
        None, ge=1, description="blocks on every client; null: planned in every round"
    )
    split_points: Literal["common", "own"] = Field(
        "common", description="common (one cut for all) | own (every client its own)"
    )
    server_side: Literal["shared", "copies"] = Field(
        "shared", description="shared (SplitFed v2) | copies (v1: one per client, averaged)"
    )
    labels_at: Literal["server", "client"] = Field(
        "server", description="server | client (U-shaped: LM head and loss stay with the labels)"
    )
    activation_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="what crosses the cut forward; int8 rounds at random"
    )
    gradient_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="what comes back across the cut"
    )
    uplink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the client halves' updates on the air"
    )
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast client half on the air"
    )
    downlink: Literal["planned", "equal", "free"] = Field(
        "planned",
        description="shares of the downlink: planned | equal | free (not charged, the paper's)",
    )
    server_flop_rate: float = Field(1e13, gt=0, description="of the main server [FLOP/s]")
    server_power_w: float = Field(
        0.0, ge=0, description="drawn by the main server while it computes [W]; 0: not counted"
    )
    main_subchannels: int = Field(
        20, ge=1, le=100_000, description="of the uplink to the main server, at least one a client"
    )
    federated_subchannels: int = Field(
        20,
        ge=1,
        le=100_000,
        description="of the uplink to the federated server, at least one a client",
    )
    main_total_power_dbm: float | None = Field(
        None, description="of all clients together to the main server; null: each its full power"
    )
    federated_total_power_dbm: float | None = Field(
        None, description="of all clients together to the federated server"
    )
    rounds_table: str | dict[int, float] | None = Field(
        None,
        description="rounds to the target by rank, {4: 60, 8: 50} or the file of airtune "
        "rank-search --out: adapter.rank is then chosen before round 1",
    )
    accuracy_a: float | None = Field(
        None, gt=0, description="FedsLLM's a: local_steps and rounds follow from a local accuracy"
    )
    accuracy_v: float | None = Field(
        None, gt=0, description="FedsLLM's v: local steps per halving of the local error"
    )
    unusual_values: list[str] = Field(
        [], description="keys of this section that are meant although outside their usual range"
    )

    @model_validator(mode="after")
    def _refuse_slips_of_units(self) -> "SflllmSection":
        where = "sflllm.unusual_values"
        meant = read_meant(self.unusual_values, tuple(SERVER_UNITS), where)
        for key, usual in SERVER_UNITS.items():
            value = getattr(self, key)
            if value is not None:
                refuse_unusual(f"sflllm.{key}", value, usual, where, meant)
        return self


_ALL_CLIENTS = UsualRange(-50.0, 90.0, "it is read in dBm: 30 for 1 W", decibels=True)
SERVER_UNITS = {
    "server_flop_rate": SERVER_FLOP_RATE,
    "server_power_w": UsualRange(1.0, 1e7, "it is read in watts", or_zero=True),
    "main_total_power_dbm": _ALL_CLIENTS,
    "federated_total_power_dbm": _ALL_CLIENTS,
}
"""Usual ranges of sflllm's keys that carry a unit."""


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
    calibration_rows: int = Field(32, ge=1, le=1_000_000, description="how many of them")
    uplink_dtype: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="updates on the air"
    )


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
        "drawn", description="ranks sent: drawn by lot, by their energy | the largest (the paper's)"
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
        "fp32", description="updates on the air"
    )
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast adapter on the air"
    )


class HetloraSection(DenseSection):
    rank_min: int = Field(
        2, ge=1, description="rank of the slowest device; the fastest gets adapter.rank"
    )


class FfaLoraSection(DenseSection):
    downlink_dtype: Literal["fp32", "fp16", "bf16"] = Field(
        "fp32", description="the broadcast factor B on the air"
    )
