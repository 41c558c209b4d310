"""The experiment file: every key documented once, checked once.

The descriptions here are the comments of `airtune init` and of `airtune schema experiment`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PrivateAttr, SerializeAsAny, model_validator

from airtune.config.data import DataSection
from airtune.config.energy import EnergySection
from airtune.config.pacing import PacingSection
from airtune.errors import InputError
from airtune.files import Templates, parse_yaml
from airtune.section import Section, Words, refused
from airtune.wireless.cell import CellSettings

MOST_CLIENTS = 100_000
"""Each has a shard, a device and a channel in memory."""
MOST_THREADS = 256
"""Of a process, and as many processes: more only wait for each other."""
MOST_STEPS = 100_000
"""Local steps and rows of a batch: what a client trains in a round is laid out before it begins."""
MOST_ROUNDS = 99_999
"""Checkpoints sort by name, with five digits."""
CHARGED_AS = "Time, bits, energy and memory are charged as if"
"""How the notice of `charge_as` begins, which pages say once, above everything."""
FORMAT = 2
"""Of experiment files that name it, which those of run folders do. In format 1, which does not,
`${NAME}` in the file of a run folder is plain text."""
Options = TypeVar("Options", bound=Section)
Part = str | dict[str, Any]
"""A named or imported part: `name`, `package.module:Class`, or `{use: name, option: value}`."""


PART_KINDS = ("planner", "tuner", "codec", "aggregator")
"""Keys that name a part of the method."""
PART_KEYS = (*PART_KINDS, "cell.channel")
"""Every key that may name a user-defined part of the method or the cell."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | Mapping) else value


class AdapterSection(Section):
    kind: Literal["lora", "full"] = Field(
        "lora", description="lora | full (every parameter is trained; the other keys are LoRA's)"
    )
    rank: int = Field(8, ge=1, description="LoRA rank r")
    alpha: float | None = Field(None, gt=0, description="LoRA alpha; null is twice the rank")
    target_modules: Annotated[str | list[str], Words("all-linear, or a list of module names")] = (
        Field(
            "all-linear",
            description="adapted modules: all-linear (of the blocks), or a list of names",
        )
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="other ranks by module name, {mlp.down_proj: 4}"
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="other alphas by module name"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout")
    start: str | None = Field(
        None, description="a PEFT adapter folder to start from, which settles the keys above"
    )
    personal: list[str] = Field(
        [], description="tensors that stay at each client, by pattern, [*.lora_B.*]"
    )


class ClientsSection(Section):
    count: int = Field(8, ge=1, le=MOST_CLIENTS, description="number of registered clients")
    devices: Annotated[
        list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])
    ] = Field(
        ["galaxy-s25", "raspberry-pi-5", "pixel-9", "laptop-cpu"],
        min_length=1,
        description="device profiles, assigned to the clients round-robin (airtune device list)",
    )
    device_file: str | None = Field(None, description="a YAML file with profiles of your own")


class CohortSection(Section):
    size: int | None = Field(None, ge=1, description="clients scheduled a round; null: all")
    dropout: float = Field(0.0, ge=0, lt=1, description="chance that a client falls silent")


class TrainingSection(Section):
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw | sgd")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="local; null: by the model's size and what is trained (0.0125 for the built-in "
        "model, whose full tuning learns best at 0.003)",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="of trained parameters: decoupled with adamw, added to the gradient with sgd",
    )
    batch_size: int = Field(2, ge=1, le=MOST_STEPS, description="examples a step")
    local_steps: int = Field(
        8, ge=1, le=MOST_STEPS, description="optimiser steps of a client in a round"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradient norm is clipped here; 0: never")
    keep_optimizer: bool = Field(
        True, description="a client's optimiser moments survive to its next round"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine",
        description="learning rate over the planned rounds: constant | linear | cosine (to 0)",
    )
    warmup_rounds: int = Field(
        0, ge=0, description="rounds in which the learning rate rises before that"
    )
    gradient_accumulation: int = Field(
        1,
        ge=1,
        le=MOST_STEPS,
        description="micro-batches that the rows of a step are divided into; the same step, with "
        "the memory of one of them",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="a block keeps its input alone and is computed again in the backward pass: "
        "less memory, one more forward pass of the blocks",
    )

    @model_validator(mode="after")
    def _check_micro_batches(self) -> "TrainingSection":
        if self.gradient_accumulation > self.batch_size:
            allowed = f"at most batch_size, {self.batch_size}"
            raise refused("gradient_accumulation", self.gradient_accumulation, allowed)
        return self


class ServerSection(Section):
    optimizer: Literal["none", "momentum", "adam"] = Field(
        "none", description="none (FedAvg) | momentum (FedAvgM) | adam (FedAdam)"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="null: 1 for momentum, 0.01 for adam"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="beta, or beta1 of adam")
    second_momentum: float = Field(0.99, ge=0, lt=1, description="beta2 of adam")
    adaptivity: float = Field(1e-3, gt=0, description="tau of adam; small adapts more")


class StopSection(Section):
    target_loss: float | None = Field(None, gt=0, description="stop at this test loss [nat]")
    virtual_time_s: float | None = Field(None, gt=0, description="stop after so much virtual time")
    energy_j: float | None = Field(None, gt=0, description="stop after so much client energy")


class DeploySection(Section):
    """Used by `airtune deploy` alone; a simulated run says that it has no effect."""

    quorum: int = Field(
        1, ge=1, description="clients that must answer in a round; below it the server waits"
    )
    join_s: float = Field(
        600.0, gt=0, description="how long the server waits before round 1 until all have joined"
    )
    wait_s: float = Field(
        600.0, gt=0, description="how long it waits for the quorum of a round, then it stops"
    )
    patience_s: float = Field(
        60.0, gt=0, description="a client that is not connected is silent after so long"
    )
    round_s: float | None = Field(
        None, gt=0, description="a client that has not answered so long after its task is silent"
    )
    step_s: float = Field(
        120.0, gt=0, description="the same for one message of a split model's local step"
    )
    row_lengths: Literal["exact", "means"] = Field(
        "exact", description="what clients tell of their rows: each length, or means"
    )
    rates: Literal["cell", "measured"] = Field(
        "cell", description="rates of clients: of the cell, or measured on joining and every round"
    )
    speeds: Literal["profiles", "measured"] = Field(
        "profiles", description="speed of clients: of their device profile, or measured on joining"
    )
    pace: bool = Field(
        False,
        description="clients send no faster than planned; always so where rates are measured",
    )


class ExperimentConfig(Section):
    """Everything that a run depends on."""

    model: str = Field("builtin", description="builtin, a folder, or a hub name")
    trust_remote_code: bool = Field(
        False, description="run Python code that the model brings along; it may do anything"
    )
    dtype: Literal["fp32", "bf16", "fp16", "nf4", "int8"] = Field(
        "fp32",
        description="dtype of the frozen base; nf4, int8: of the matrices in its blocks (extra "
        "airtune[quant])",
    )
    compute_dtype: Literal["fp32", "bf16", "fp16"] | None = Field(
        None,
        description="with nf4 or int8, what products run in and the rest is held in; null: bf16",
    )
    adapter: AdapterSection = Field(default_factory=AdapterSection, description="what is trained")
    data: DataSection = Field(default_factory=DataSection, description="what is learned")
    clients: ClientsSection = Field(default_factory=ClientsSection, description="who learns it")
    cohort: CohortSection = Field(
        default_factory=CohortSection, description="who takes part in a round"
    )
    training: TrainingSection = Field(default_factory=TrainingSection, description="local training")
    energy: EnergySection = Field(
        default_factory=EnergySection, description="CPU speed and transmit power of clients"
    )
    pacing: PacingSection = Field(
        default_factory=PacingSection, description="when the server makes a step"
    )
    server: ServerSection = Field(
        default_factory=ServerSection, description="the server's own step"
    )
    cell: CellSettings = Field(default_factory=CellSettings, description="the radio cell")
    method: str = Field("fedlora", description="the learning method")
    methods: dict[str, SerializeAsAny[Section]] = Field(
        {}, description="options of methods, by name; in a file each is a section of its own"
    )
    planner: Part | None = Field(None, description="replaces the method's planner")
    tuner: Part | None = Field(None, description="replaces the method's tuner")
    codec: Part | None = Field(None, description="replaces the method's codec")
    aggregator: Part | None = Field(None, description="replaces the method's aggregator")
    rounds: int = Field(48, ge=1, le=MOST_ROUNDS, description="number of rounds")
    stop: StopSection = Field(default_factory=StopSection, description="reasons to stop earlier")
    deadline_s: float | None = Field(
        None, gt=0, description="a later update is discarded, its time still charged"
    )
    charge_as: str | None = Field(
        None, description="charge time and energy as if this model were trained"
    )
    engine: Literal["auto", "sequential", "workers", "batched", "batched-workers"] = Field(
        "auto",
        description="auto | sequential | batched (clients trained as one stack) | workers "
        "(processes) | batched-workers; same result up to rounding",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=MOST_THREADS,
        description="worker processes; null: one per core, at most one per client",
    )
    backend: Literal["local", "ray"] = Field(
        "local", description="local | ray (the workers are actors of a Ray cluster; same result)"
    )
    ray_address: str | None = Field(
        None, description="a running cluster (ray://host:port, auto); null: one on this machine"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto (a GPU where torch sees one) | cpu | cuda; workers compute on cpu"
    )
    report_to: Annotated[
        Part | list[Part] | None,
        Words("a tracker's name, a mapping of use and its options, or a list of them"),
    ] = Field(None, description="trackers of the rounds: tensorboard | wandb | mlflow")
    deploy: DeploySection = Field(
        default=DeploySection(), description="real machines (airtune deploy)"
    )
    tokens_at_once: int | None = Field(
        None,
        ge=1,
        description="tokens of one forward pass here; null: 2,048 on a processor, on a GPU what "
        "its free memory holds, at most 32,768",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=MOST_THREADS,
        description="torch threads; null: one for a small model, else one per core",
    )
    seed: int = Field(0, ge=0, description="every random draw comes from it")
    # Which values came from the environment: their templates are written, not the values.
    _templates: Templates = PrivateAttr(default_factory=dict)

    def section(self, kind: type[Options]) -> Options:
        """The options of the method whose section is of this class."""
        return next((own for own in self.methods.values() if type(own) is kind), kind())

    def with_section(self, section: Section) -> "ExperimentConfig":
        """The experiment with other options of the method whose section is of this class."""
        kinds = {type(own): name for name, own in self.methods.items()}
        return self.with_options(kinds[type(section)], section)

    def with_options(self, name: str, section: Section) -> "ExperimentConfig":
        """The experiment with other options of the method of this name."""
        return self.model_copy(update={"methods": {**self.methods, name: section}})

    def value_of(self, key: str) -> Any:
        """The value of a dotted key of the experiment file, such as `cell.bandwidth_hz`."""
        first, *rest = key.split(".")
        value: Any = self.methods[first] if first in self.methods else getattr(self, first)
        for part in rest:
            value = getattr(value, part)
        return value


def parse_setting(setting: str) -> tuple[list[str], Any]:
    """`a.b=1e6` as a path and a YAML 1.2 value."""
    key, separator, text = setting.partition("=")
    if not separator or not all(part.strip() for part in key.split(".")):
        raise InputError("--set", setting, "of the form key.subkey=value")
    return [part.strip() for part in key.split(".")], parse_yaml(text, f"--set {key}")


def with_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The mapping with `--set` values put in, sections created where needed."""
    result: dict[str, Any] = _copy(values)
    for setting in settings:
        _put(result, *parse_setting(setting), setting)
    return result


def with_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the values of dotted keys put in, sections created where needed."""
    result: dict[str, Any] = _copy(values)
    for key, value in changes.items():
        _put(result, key.split("."), value, key)
    return result


def _put(values: dict[str, Any], path: Sequence[str], value: Any, shown: str) -> None:
    section = values
    for part in path[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise InputError("--set", shown, f"a key in a section, and {part!r} is not one")
    section[path[-1]] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(part) for key, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value
