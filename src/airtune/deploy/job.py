"""What travels from the server to a client before the first round, and what never does.

A client is given numbers and names: training settings, the adapter, the method with its options,
the parts that it runs. It is given no path, no template, no code and no value of an environment
variable; whatever names a file it brings itself, and a digest shows whether it is the same.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import airtune
from airtune.config.experiment import ExperimentConfig
from airtune.config.text import plain_values
from airtune.data.sources import TaskData
from airtune.deploy.messages import PROTOCOL, Job
from airtune.errors import AirtuneError, InputError
from airtune.experiment.digests import shared_contents
from airtune.experiment.loading import LoadedModel
from airtune.experiment.reading import checked
from airtune.methods.registry import find_method, installed_methods

CLIENT_KEYS = (
    "dtype",
    "compute_dtype",
    "adapter",
    "training",
    "method",
    "tuner",
    "codec",
    "rounds",
    "seed",
)
"""Keys and sections of the experiment that a client trains by, beside its method's section."""
DATA_KEYS = (
    "format",
    "prompt_column",
    "completion_column",
    "max_tokens",
    "system",
    "tools",
    "template_inputs",
    "date",
)
"""How rows become tokens; the sources and the template are each side's own."""
CLIENT_PARTS = ("tuner", "codec")
BUILTIN = "builtin"


def make_job(
    loaded: LoadedModel,
    task: TaskData,
    run: str,
    limit_bytes: int,
    config: ExperimentConfig,
    *,
    probes: bool = False,
) -> Job:
    """The job of every client; `limit_bytes` bounds the parts of a task. With `probes` clients
    measure their links when they join."""
    return Job(
        airtune=airtune.__version__,
        run=run,
        experiment=client_keys(config),
        model=BUILTIN if config.model == BUILTIN else "",
        format_name=task.format_name,
        separator=task.separator,
        digests=shared_contents(config, loaded.base),
        limit_bytes=limit_bytes,
        exact_lengths=config.deploy.row_lengths == "exact",
        calibrates=config.deploy.speeds == "measured",
        probes=probes,
    )


def client_keys(config: ExperimentConfig) -> dict[str, Any]:
    """The keys that travel; InputError for a value from the environment among them."""
    names = (*CLIENT_KEYS, config.method)
    for place, (template, _) in config._templates.items():
        first, *rest = place
        if first in names or (first == "data" and rest and rest[0] in DATA_KEYS):
            raise InputError(
                ".".join(map(str, place)),
                template,
                "written out where clients are on other machines",
                "values from the environment and secrets are never sent",
            )
    values = plain_values(config)
    found = {name: values[name] for name in names if name in values}
    found["adapter"] = {**found["adapter"], "start": None}
    found["data"] = {key: values["data"][key] for key in DATA_KEYS}
    found["clients"] = {"count": config.clients.count}
    section = found.get(config.method, {})
    for key in find_method(config.method).files:
        if not str(section.get(key, BUILTIN)).startswith(BUILTIN):
            section = {name: value for name, value in section.items() if name != key}
    if section:
        found[config.method] = section
    return found


def client_config(
    job: Job,
    model: str,
    files: Mapping[str, str],
    allowed: Collection[str],
    *,
    template: Path | None = None,
    trust_remote_code: bool = False,
) -> ExperimentConfig:
    """The experiment as a client runs it: the server's keys with the client's own model and files.

    Raises InputError for a part that the operator does not allow, before it is imported, and for
    keys of a file that the method does not have.
    """
    refuse_unallowed(job.experiment, allowed)
    values = dict(job.experiment)
    unknown = sorted(set(values) - {*CLIENT_KEYS, "data", "clients", str(values.get("method"))})
    if unknown:
        raise InputError("the job", f"one with the key {unknown[0]}", "made of keys for clients")
    data = dict(values.get("data", {}))
    if set(data) - set(DATA_KEYS):
        raise InputError("the job", "one that names files", "made of keys for clients")
    if template is not None:
        data["chat_template"] = str(template)
    values |= {"data": data, "model": model, "trust_remote_code": trust_remote_code}
    return checked(_with_files(values, files))


def _with_files(values: dict[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    method = str(values.get("method"))
    known = [f"{method}.{key}" for key in find_method(method).files]
    for key, path in files.items():
        if key not in known:
            raise InputError(
                "--file", key, f"one of {', '.join(known) or 'no keys'} with method {method}"
            )
        section = dict(values.get(method, {}))
        section[key.partition(".")[2]] = path
        values = {**values, method: section}
    return values


def refuse_unallowed(experiment: Mapping[str, Any], allowed: Collection[str]) -> None:
    """InputError for code that airtune does not ship and the operator has not named.

    `allowed` has import paths of parts, and names of installed methods.
    """
    method = experiment.get("method", "")
    if method in installed_methods() and method not in allowed:
        raise InputError(
            "method",
            method,
            "one that airtune ships, or that this client allows",
            f"if you trust the installed method, start with --allow-part {method}",
        )
    for kind in CLIENT_PARTS:
        spec = experiment.get(kind)
        name = spec.get("use") if isinstance(spec, Mapping) else spec
        if isinstance(name, str) and ":" in name and name not in allowed:
            raise InputError(
                kind,
                name,
                "a part that airtune ships, or that this client allows",
                f"if you trust its code, start with --allow-part {name}",
            )


def compare_contents(job: Job, own: Mapping[str, str], here: str) -> None:
    """AirtuneError that names what this client has otherwise than its server."""
    differing = [name for name, digest in job.digests.items() if own.get(name) != digest]
    if not differing:
        return
    remedies = {
        "the base weights": "give the same model with --model",
        "the model's config": "give the same model with --model",
        "the tokenizer or its chat template": "give the same model, or its --chat-template",
    }
    remedy = remedies.get(differing[0], "bring the same with --file, or install the same version")
    raise AirtuneError(
        f"{here} has other contents than its server in {' and in '.join(differing)}: {remedy}."
    )


def same_work(before: Job, now: Job) -> bool:
    """Whether the model, the rows and the method are those that are loaded."""
    return before.model_copy(update={"limit_bytes": 0}) == now.model_copy(update={"limit_bytes": 0})


def check_versions(job: Job) -> None:
    """AirtuneError where the server speaks another protocol, or is another version of airtune."""
    if job.protocol != PROTOCOL or job.airtune != airtune.__version__:
        raise AirtuneError(
            f"The server runs airtune {job.airtune} (protocol {job.protocol}) and this client "
            f"{airtune.__version__} (protocol {PROTOCOL}): install the same version on both."
        )
