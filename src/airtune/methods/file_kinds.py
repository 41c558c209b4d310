"""Which command a YAML file is for, from its keys."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from airtune.errors import InputError
from airtune.methods.registry import method_names, problem_specs

COMPARISON, PROBLEM, EXPERIMENT = "comparison", "planning problem", "experiment"
_COMMANDS = {COMPARISON: "compare", PROBLEM: "plan", EXPERIMENT: "run"}
_ARTICLES = {COMPARISON: "a comparison", PROBLEM: "a planning problem", EXPERIMENT: "an experiment"}
_OF_A_PROBLEM = frozenset(
    {
        "noise_psd_dbm_hz",
        "noise_psd_w_hz",
        "tokens",
        "candidates",
        "main_server",
        "federated_server",
    }
)
_OF_AN_EXPERIMENT = frozenset({
    "data", "engine", "cohort", "stop", "deadline_s", "charge_as", "planner", "tuner", "codec",
    "aggregator", "workers", "backend", "server", "threads", "device",
})  # fmt: skip


def kind_of(content: Mapping[str, Any]) -> str | None:
    """What the keys of a file belong to; None where they might belong to several."""
    if "arms" in content:
        return COMPARISON
    if isinstance(content.get("clients"), list) or _OF_A_PROBLEM & content.keys():
        return PROBLEM
    if _OF_AN_EXPERIMENT & content.keys():
        return EXPERIMENT
    # A method's name, as a section or as the method, decides where it is not a problem's, too.
    trained = set(method_names()) - set(problem_specs())
    named = {*content, content["method"]} if isinstance(content.get("method"), str) else {*content}
    return EXPERIMENT if trained & named else None


def refuse_other_kind(content: Mapping[str, Any], path: Path | str, wanted: str) -> None:
    """Raise InputError, naming the right command, for a file that is plainly of another kind."""
    # Records of a run are YAML by chance, and belong to no command.
    kind = None if Path(path).suffix == ".jsonl" else kind_of(content)
    if kind not in (None, wanted):
        raise InputError(
            str(path),
            _ARTICLES[kind],
            _ARTICLES[wanted],
            f"run `airtune {_COMMANDS[kind]} {quote(str(path))}`",
        )


def refuse_run_folder(path: Path | str) -> None:
    """Raise InputError, naming the right command, for the folder of a run."""
    if (Path(path) / "experiment.yaml").is_file():
        raise InputError(
            str(path),
            "the folder of a run",
            "the file of an experiment",
            f"run `airtune resume {quote(str(path))}` to continue it, or name the experiment.yaml "
            "in it to run it anew",
        )
