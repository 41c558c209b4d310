"""The cases of `golden.py`: small experiments and problems that between them use every option that
decides a result, and every engine, solver and offline stage.

A case is a folder with some files and the arguments of a few calls of airtune in it. To add one,
add a line; what a case records is the same for all (`golden_record.py`).
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TINY_MODELS: Mapping[str, Mapping[str, Any]] = {
    "tiny-llama": {
        "model_type": "llama", "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 88,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.1,
    },
    "tiny-gpt2": {
        "model_type": "gpt2", "vocab_size": 2048, "n_embd": 32, "n_layer": 2, "n_head": 4,
        "n_positions": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "initializer_range": 0.1,
    },
}  # fmt: skip
"""Configurations of the untrained models, beside the folders of the cases."""


@dataclass(frozen=True)
class Case:
    """Calls of airtune in one folder, in order, until one fails."""

    name: str
    commands: Sequence[Sequence[str]]
    files: Mapping[str, str] = field(default_factory=dict)


SMALL = {
    "model": "../tiny-llama",
    "adapter.rank": "4",
    "data.train_limit": "48",
    "data.test_limit": "6",
    "data.max_tokens": "64",
    "data.score_rows": "0",
    "clients.count": "4",
    "training.local_steps": "2",
    "training.learning_rate": "0.01",
    "cell.path_loss": "log_distance",
    "rounds": "3",
    "engine": "sequential",
    "threads": "1",
}
"""Keys of every run, unless its case says otherwise."""
BUILTIN = "model=builtin cell.path_loss=umi"
"""The built-in model in the default cell, with 3GPP fading."""
ROUGH = "clients.count=6 cohort.size=5 cohort.dropout=0.25"
"""A cohort of some, of which some fall silent."""
GPT2 = "model=../tiny-gpt2"
AS_GPT2 = "charge_as=gpt2 cell.bandwidth_hz=2e7"

TRACE_CSV = "time_s,throughput_mbps\n" + "".join(
    f"{second},{rate}\n" for second, rate in enumerate((40, 25.5, 0, 61.25, 33, 8.5, 90))
)

ENGINES = {
    "sequential": BUILTIN,
    "batched": "engine=batched",
    "workers": "engine=workers workers=2",
    "batched-workers": "engine=batched-workers workers=2",
}
RUNS: Mapping[str, Mapping[str, str]] = {
    "fedlora": {
        **ENGINES,
        "equal": "fedlora.bandwidth=equal fedlora.uplink_dtype=fp16 fedlora.downlink_dtype=bf16",
        "random": f"fedlora.bandwidth=random fedlora.uplink_dtype=bf16 {ROUGH}",
        "batched-rough": f"engine=batched fedlora.downlink_dtype=fp16 {ROUGH}",
        "deadline": f"{GPT2} {ROUGH} deadline_s=0.05 cell.bandwidth_hz=1e6",
        "momentum": "server.optimizer=momentum training.optimizer=sgd training.schedule=linear "
        "training.warmup_rounds=1",
        "adam": "server.optimizer=adam training.schedule=constant training.keep_optimizer=false "
        "training.max_grad_norm=0",
        "full": "adapter.kind=full adapter.rank=8 training.learning_rate=0.003",
        "full-int8": "adapter.kind=full adapter.rank=8 codec=int8 server.optimizer=momentum",
        "full-workers": "adapter.kind=full adapter.rank=8 engine=workers workers=2",
        "patterns": "'adapter.rank_pattern={mlp.down_proj: 2}' adapter.dropout=0.1 "
        "'adapter.alpha_pattern={q_proj: 16}' adapter.alpha=6",
        "targets": "adapter.target_modules=[q_proj,v_proj] dtype=bf16",
        "dirichlet": "data.partition.kind=dirichlet data.train=builtin:arithmetic clients.count=3",
        "size": "data.partition.kind=size data.partition.concentration=2 data.score_rows=2",
        "charged": f"{AS_GPT2} cell.csi_error_db=2 cell.csi_delay_rounds=1 stop.virtual_time_s=40",
        "cqi": "cell.rate_model=cqi cell.path_loss=free_space cell.fading=rician "
        "cell.implementation_margin_db=3",
        "uma": "cell.path_loss=uma cell.speed_m_s=10 cell.radius_m=300",
        "still": "cell.speed_m_s=0 cell.fading_correlation=0 cell.shadowing_db=6 "
        "cell.interference_margin_db=2",
        "walk": "cell.walk_start=uniform cell.fading=none cell.round_interval_s=60",
        "trace": "cell.trace=trace.csv cell.trace_bandwidth_hz=2e7",
        "top-k": "codec=top-k",
        "svd": "'codec={use: svd, dtype: int8}'",
        "svd-gauge": "aggregator=svd-gauge tuner=orthogonal",
        "composed": "planner=jcpba tuner=pruned codec=sliced aggregator=overlap-mean",
    },
    "jcpba": {
        **ENGINES,
        "bcd": "jcpba.solver=bcd jcpba.uplink_dtype=int8",
        "equal": f"jcpba.solver=equal jcpba.uplink_dtype=bf16 {ROUGH}",
        "uniform-pruning": f"jcpba.solver=uniform-pruning jcpba.uplink_dtype=fp16 {AS_GPT2}",
        "no-pruning": "jcpba.solver=no-pruning",
        "none": "jcpba.solver=none",
        "activations": f"jcpba.importance=activations jcpba.calibration_rows=8 {GPT2}",
        "random": "jcpba.importance=random server.optimizer=adam",
        "budget": f"jcpba.pruning_budget=0.6 jcpba.pruning_rate_max=0.7 deadline_s=0.04 {ROUGH}",
        "budget-search": "jcpba.budget_search=true rounds=1",
        "charged": f"{AS_GPT2} jcpba.importance=activations jcpba.calibration_rows=4 rounds=2",
    },
    "soft_tsfa": {
        **ENGINES,
        "fixed-sparsity": "soft_tsfa.solver=fixed-sparsity soft_tsfa.sparsity=0.75 "
        "soft_tsfa.uplink_dtype=int8",
        "dense-solver": "soft_tsfa.solver=dense soft_tsfa.downlink_dtype=fp16",
        "norm": "soft_tsfa.importance=norm soft_tsfa.choice=largest soft_tsfa.uplink_dtype=bf16",
        "global": "soft_tsfa.selection=global soft_tsfa.choice=largest",
        "global-drawn": f"soft_tsfa.selection=global {ROUGH}",
        "random": "soft_tsfa.sparsifier=random soft_tsfa.uplink_dtype=fp16",
        "top-k": "soft_tsfa.sparsifier=top-k soft_tsfa.uplink_dtype=int8",
        "svd": f"soft_tsfa.sparsifier=svd {GPT2}",
        "dense": "soft_tsfa.sparsifier=dense",
        "feedback": "soft_tsfa.error_feedback=true soft_tsfa.merge=mean "
        "soft_tsfa.orthogonalise=none soft_tsfa.choice=largest",
        "feedback-workers": "soft_tsfa.error_feedback=true soft_tsfa.merge=mean "
        f"soft_tsfa.orthogonalise=none engine=workers workers=2 {ROUGH}",
        "mean": "soft_tsfa.merge=mean soft_tsfa.target_share=0.1",
        "penalty": "soft_tsfa.penalty=0.03 soft_tsfa.orthogonalise=none",
        "penalty-raw": "soft_tsfa.penalty=10 soft_tsfa.penalty_form=raw "
        "soft_tsfa.orthogonalise=none server.optimizer=momentum engine=batched",
        "target": "soft_tsfa.latency_target_s=0.04 soft_tsfa.v=0.05 soft_tsfa.virtual_queue=0.1 "
        "soft_tsfa.outage_latency_s=0.08 cell.radius_m=600",
        "charged": f"{AS_GPT2} {ROUGH} rounds=2",
        "rank-search": "soft_tsfa.rank_search=true rounds=2",
    },
    "hetlora": {
        **ENGINES,
        "equal": f"hetlora.bandwidth=equal hetlora.uplink_dtype=fp16 hetlora.rank_min=1 {ROUGH}",
        "charged": f"{AS_GPT2} hetlora.bandwidth=random {GPT2}",
    },
    "ffa_lora": {
        **ENGINES,
        "equal": f"ffa_lora.bandwidth=equal ffa_lora.uplink_dtype=fp16 {ROUGH} {GPT2}",
        "charged": f"{AS_GPT2} ffa_lora.bandwidth=random ffa_lora.downlink_dtype=bf16",
    },
    "centralised": {
        "sequential": BUILTIN,
        "charged": AS_GPT2,
        "full": f"adapter.kind=full adapter.rank=8 {GPT2}",
    },
    "sflllm": {
        "joint": f"{BUILTIN} sflllm.main_total_power_dbm=26",
        "greedy": "sflllm.solver=greedy sflllm.activation_dtype=int8 sflllm.gradient_dtype=int8",
        "random": "sflllm.solver=random sflllm.downlink=equal",
        "random-subchannels": "sflllm.solver=random-subchannels sflllm.downlink=free rounds=2",
        "random-power": "sflllm.solver=random-power sflllm.labels_at=client rounds=2 "
        "sflllm.federated_total_power_dbm=25",
        "random-split-point": f"sflllm.solver=random-split-point {GPT2} rounds=2",
        "random-rank": "sflllm.solver=random-rank rounds=2",
        "own": f"sflllm.split_points=own {AS_GPT2} sflllm.server_power_w=200",
        "own-client": f"sflllm.split_points=own sflllm.labels_at=client {AS_GPT2}",
        "copies": "sflllm.server_side=copies sflllm.activation_dtype=bf16 "
        "sflllm.gradient_dtype=fp16",
        "rough": f"{ROUGH} sflllm.uplink_dtype=fp16 sflllm.downlink_dtype=bf16 deadline_s=0.08 "
        "sflllm.labels_at=client",
        "fixed": "sflllm.split_point=2 server.optimizer=momentum training.keep_optimizer=false "
        "sflllm.server_flop_rate=1e11 sflllm.main_subchannels=8",
        "table": "'sflllm.rounds_table={2: 60, 4: 50}' rounds=2",
        "workers": "engine=workers workers=2 rounds=1",
        "accuracy": "sflllm.accuracy_a=1.5 sflllm.accuracy_v=1 rounds=2",
    },
    "hsfl": {
        "own": f"{AS_GPT2} hsfl.server_flop_rate=1e12 hsfl.labels_at=client",
        "rough": f"{ROUGH} hsfl.server_side=copies hsfl.activation_dtype=bf16",
        "rarely": "hsfl.client_halves=averaged hsfl.cuts=common hsfl.aggregate_every=2 "
        "hsfl.uplink_dtype=int8 cohort.dropout=0.2",
    },
    "epsl": {
        "half": "training.batch_size=4 epsl.gradient_dtype=int8 adapter.dropout=0.1",
        "all": f"epsl.aggregation_ratio=1 epsl.client_halves=averaged {AS_GPT2}",
    },
    "fedsl": {
        "thin": "fedsl.cut_dropout=0.4 fedsl.activation_dtype=int8 fedsl.aggregate_every=2",
        "pruned": f"fedsl.pruning_rate=0.3 fedsl.split_point=2 {AS_GPT2}",
    },
    "flora": {"ranks": "flora.rank_min=2 cohort.size=2", "int8": "flora.uplink_dtype=int8"},
    "fedex_lora": {"cohort": "cohort.size=2 training.keep_optimizer=true"},
    "ferret": {
        "orthonormal": "ferret.directions=300",
        "gaussian": "ferret.directions=300 ferret.distribution=gaussian",
        "sums": "ferret.directions=300 ferret.shared=true ferret.downlink=coefficients "
        "cohort.size=2",
    },
    "fedkseed": {"pairs": "training.learning_rate=0.003 cohort.size=2"},
    "sampled_lora": {
        "planned": "sampled_lora.least_rank=1",
        "uniform": "sampled_lora.participation=uniform",
    },
}
"""Settings of a run, by method and case; three rounds each."""


def arguments(settings: str) -> list[str]:
    """`--set KEY=VALUE` for each of these settings and for every key of SMALL beside them."""
    given = dict(setting.split("=", 1) for setting in shlex.split(settings))
    return [word for pair in {**SMALL, **given}.items() for word in ("--set", "=".join(pair))]


def _run(name: str, settings: str, *after: Sequence[str]) -> Case:
    run = ("run", "--json", "--out", "run", *arguments(settings))
    return Case(name, (run, *after), {"trace.csv": TRACE_CSV})


LONGER = ("resume", "run", "--json", "--rounds", "+2")
AGAIN = ("run", "--json", "--out", "again", *arguments("adapter.start=run/adapter rounds=1"))
FEEDBACK = "soft_tsfa.error_feedback=true soft_tsfa.merge=mean soft_tsfa.orthogonalise=none"
RESUMED = {
    "fedlora": f"rounds=2 server.optimizer=adam {ROUGH}",
    "soft_tsfa": f"method=soft_tsfa rounds=2 {FEEDBACK}",
    "jcpba": "method=jcpba rounds=2 jcpba.uplink_dtype=int8 engine=batched",
    "sflllm": "method=sflllm rounds=2",
    "full": "adapter.kind=full adapter.rank=8 rounds=2",
}
"""Runs of two rounds that are resumed for two more."""
PROFILES = {
    "builtin": "--rank 4 --split-point 2",
    "gpt2": "--pruning-rate 0.3 --tokens 64",
    "llama-3.2-1b": "--update-dtype bf16 --dtype bf16",
    "opt-125m": "--full",
    "qwen3-0.6b": "--target-modules q_proj,up_proj",
    "phi-2": "",
    "gemma-2b": "",
    "mistral-7b": "--split-point 7",
}
"""Models of `airtune profile` with its options."""
ARMS = "fedlora,jcpba:solver=bcd+pruning_budget=0.2,sflllm"


def _further() -> Iterator[Case]:
    """Commands other than one run: resumed and warm runs, searches, channels, comparisons."""
    for name, settings in RESUMED.items():
        yield _run(f"resume-{name}", settings, LONGER)
    ends = (("eval", "again", "--json"), ("export", "again", "exported", "--merge"))
    yield _run("warm-fedlora", "rounds=1", AGAIN, *ends)
    for method in ("ffa_lora", "soft_tsfa"):
        yield _run(f"warm-{method}", "rounds=1", (*AGAIN, "--set", f"method={method}"))
    yield Case("channel", [_channel(loss) for loss in ("umi", "rma", "free_space")])
    replayed = arguments("cell.replay=umi.csv cell.path_loss=umi rounds=2")
    yield Case("replay", [_channel("umi"), ("run", "--json", "--out", "run", *replayed)])
    charged = [arguments(f"method={method} charge_as=gpt2") for method in RUNS]
    yield Case("dry-run", [("run", "--dry-run", "--json", *settings) for settings in charged])
    search: Sequence[str] = (
        "rank-search",
        "--json",
        "--out",
        "ranks.json",
        "--ranks",
        "1,2,4",
        "--rounds",
        "2",
    )
    search = (*search, "--clients", "2", *arguments(""))
    from_table = arguments("method=sflllm sflllm.rounds_table=ranks.json rounds=1")
    yield Case("rank-search", [search, ("run", "--json", "--out", "run", *from_table)])
    budgets = ("budget-search", "--json", "--budgets", "0,0.4", "--rounds", "2")
    importances = [arguments(f"jcpba.importance={rule}") for rule in ("weights", "random")]
    yield Case("budget-search", [(*budgets, *settings) for settings in importances])
    compare = ("compare", "--json", "--out", "compared", "--seeds", "2", "--methods", ARMS)
    yield Case("compare", [(*compare, *arguments("rounds=2"))])
    profiles = [(model, "--json", *options.split()) for model, options in PROFILES.items()]
    yield Case("profile", [("profile", *options) for options in profiles])


def _channel(path_loss: str) -> Sequence[str]:
    settings = arguments(f"cell.path_loss={path_loss}")
    return ("channel", f"{path_loss}.csv", "--rounds", "4", *settings)


SOLVERS: Mapping[str, Sequence[str]] = {
    "jcpba": ("exact", "bcd", "equal", "uniform-pruning", "no-pruning", "none"),
    "tsfa": ("exact", "per-client-queues", "fixed-sparsity", "dense"),
    "sflllm": ("joint", "greedy", "random", "random-subchannels", "random-power",
               "random-split-point", "random-rank"),
    "fedsllm": ("exact", "equal"),
    "latency_energy": ("exact", "minmax", "equal", "harmony"),
}  # fmt: skip
SWEEPS = {
    "jcpba": "pruning_budget=0,0.2,0.5",
    "tsfa": "virtual_queue=0,1,30",
    "sflllm": "local_steps=1,40",
    "fedsllm": "bandwidth_hz=1e6,3e7",
    "latency_energy": "weight_s_per_j=0,0.01,1",
    "jcpba_cell": "round=0,1,2",
    "tsfa_cell": "seed=0,1",
    "sflllm_cell": "cell.bandwidth_hz=1e7,8e7",
}
CELL = "cell: {bandwidth_hz: 5e6, radius_m: 400, path_loss: log_distance}"
PROBLEMS: Mapping[str, str] = {
    "fedsllm_cell": f"""
method: fedsllm
a: 10
v: 2
model: builtin
tokens: 64
training: {{batch_size: 2, local_steps: 1}}
clients: {{count: 4}}
{CELL}
""",
    "jcpba_umi": """
method: jcpba
model: gpt2
dtype: bf16
tokens: 64
seed: 2
round: 3
adapter: {rank: 4, target_modules: [c_attn, c_fc]}
training: {batch_size: 2, local_steps: 4, optimizer: sgd}
clients: {count: 5, examples: [9, 5, 5, 1, 2]}
cell: {bandwidth_hz: 5e6, path_loss: umi, csi_error_db: 1}
uplink_dtype: fp16
downlink_dtype: bf16
pruning_rate_max: 0.8
pruning_budget: 0.3
""",
    "tsfa_assumed": f"""
method: tsfa
model: tinyllama-1.1b
tokens: 128
seed: 1
adapter: {{rank: 16}}
training: {{batch_size: 1, local_steps: 2}}
clients: {{count: 12, devices: [jetson-agx-orin]}}
latency_target_s: 60
v: 500
virtual_queue: 3
sparsity: 0.75
{CELL}
""",
    "sflllm_free": f"""
method: sflllm
model: gpt2
tokens: 128
seed: 4
training: {{batch_size: 4, local_steps: 3}}
clients: {{count: 3}}
rounds: {{2: 50, 8: 40}}
split_points: [1, 2, 6, 11]
downlink: free
main_server: {{flop_rate: 1e12, subchannels: 9}}
federated_server: {{subchannels: 6, total_power_dbm: 24}}
{CELL}
""",
    "infeasible": """
method: jcpba
bandwidth_hz: 1e6
noise_psd_dbm_hz: -174
pruning_rate_max: 0.5
pruning_budget: 0.1
clients:
- {tx_power_dbm: 0, gain_db: -100, pruning_rate_min: 0.4, payload_bits: {fixed: 0, prunable: 1e6},
   compute_delay_s: {fixed: 0, prunable: 1}}
""",
}
"""Problems besides the examples."""


def _plan(name: str) -> Case:
    """Every solver of a problem, its sweep, its explicit numbers, and for TSFA many rounds."""
    text = PROBLEMS[name] if name in PROBLEMS else _example(name)
    named = "jcpba" if name == "infeasible" else name
    method = next(known for known in SOLVERS if f"{named}_".startswith(f"{known}_"))
    plan = ("plan", "problem.yaml")
    commands: list[Sequence[str]] = []
    if name not in SOLVERS and name != "infeasible":
        commands.append((*plan, "--write-problem", "explicit.yaml"))
    commands += [(*plan, "--json", "--solver", solver) for solver in SOLVERS[method]]
    if name in SWEEPS:
        commands.append((*plan, "--json", "--sweep", SWEEPS[name]))
    if method == "tsfa":
        commands += [(*plan, "--json", "--rounds", "12", "--trace", f"{solver}.csv", "--solver",
                      solver) for solver in ("exact", "fixed-sparsity", "dense")]  # fmt: skip
    return Case(f"plan-{name}", commands, {"problem.yaml": text})


def _example(name: str) -> str:
    return (EXAMPLES / f"{name}.yaml").read_text()


BLOCKS = (
    "blocks: {subchannels: greedy, power: random, split_point: search, rank: random}\nseed: 3\n"
)
REFUSED = (
    "jcpba.solver=exakt",
    "method=nothing",
    "cohort.size=9",
    "device=cuda",
    "adapter.kind=full adapter.rank=8 method=jcpba",
    "planner=jcpba",
    "soft_tsfa.v=1",
)


def _all() -> Iterator[Case]:
    for name in (*SOLVERS, "jcpba_cell", "tsfa_cell", "sflllm_cell", *PROBLEMS):
        yield _plan(name)
    blocks = {"problem.yaml": _example("sflllm") + BLOCKS}
    yield Case("plan-blocks", [("plan", "problem.yaml", "--json", "--solver", "blocks")], blocks)
    for method, cases in RUNS.items():
        for name, settings in cases.items():
            yield _run(f"{method}-{name}", f"method={method} {settings}")
    yield from _further()
    for index, settings in enumerate(REFUSED):
        yield _run(f"refused-{index}", settings)


CASES: Sequence[Case] = tuple(_all())


def chosen(patterns: str) -> list[Case]:
    """Cases whose names match one of these patterns of the shell's, such as `jcpba-*,plan-*`."""
    wanted = patterns.split(",")
    return [case for case in CASES if any(fnmatch(case.name, pattern) for pattern in wanted)]
