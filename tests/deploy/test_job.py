"""What travels to a client, what never does, and what a client refuses to run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from airtune.deploy.job import (
    CLIENT_KEYS,
    DATA_KEYS,
    check_versions,
    client_config,
    client_keys,
    compare_contents,
)
from airtune.deploy.messages import Job
from airtune.deploy.server import refuse_undeployable
from airtune.errors import AirtuneError, InputError
from airtune.experiment.reading import check_filled, checked, read_config
from airtune.tuning.base_model import load_base
from tests.deploy.harness import bare_job, deployment


def job_of(**keys: Any) -> Job:
    """A job with the keys of an experiment, which nothing has loaded."""
    config = check_filled(keys)
    return bare_job(
        airtune="0",
        experiment=json.loads(json.dumps(client_keys(config))),
        digests={"the base weights": "0" * 32},
    )


def test_no_path_travels(tmp_path: Path) -> None:
    """An experiment full of paths: none of them is in the job."""
    secret = str(tmp_path / "a place of the server")
    config = read_config(
        None,
        [
            f"model={secret}",
            f"charge_as={secret}",
            f"data.train={secret}",
            f"data.test={secret}",
            f"data.chat_template={secret}",
            f"adapter.start={secret}",
            f"clients.device_file={secret}",
            f"cell.trace={secret}",
            "cell.trace_bandwidth_hz=1e7",
            "method=jcpba",
            "jcpba.importance=activations",
            f"jcpba.calibration={secret}",
        ],
    )
    keys = client_keys(config)
    assert secret not in json.dumps(keys)
    assert set(keys) <= {*CLIENT_KEYS, "data", "clients", "jcpba"}
    assert set(keys["data"]) == set(DATA_KEYS)


@pytest.mark.parametrize(
    "keys",
    [
        {"codec": {"use": "my.part:Codec", "level": "${LEVEL}"}},
        {"data": {"system": "${LEVEL}"}},
        {"tuner": {"use": "my.part:Tuner", "api_key": "given in clear"}},
    ],
)
def test_values_of_the_environment_never_travel(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEVEL", "something private")
    with pytest.raises(InputError, match="values from the environment and secrets are never sent"):
        client_keys(check_filled(keys))


def test_what_only_the_server_needs_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLACE", "/data/test.jsonl")
    keys = client_keys(check_filled({"data": {"test": "${PLACE}"}}))
    assert "PLACE" not in json.dumps(keys)


def test_the_client_has_the_servers_settings_and_its_own_files(tmp_path: Path) -> None:
    job = job_of(
        method="jcpba",
        training={"local_steps": 3},
        jcpba={"importance": "activations", "calibration": "/server/rows.jsonl"},
    )
    own = {"jcpba.calibration": str(tmp_path / "rows.jsonl")}
    config = client_config(job, "builtin", own, ())
    assert config.training.local_steps == 3
    assert config.value_of("jcpba.calibration") == own["jcpba.calibration"]
    assert config.planner is None
    with pytest.raises(InputError, match=r"--file is fedlora\.x, .*one of jcpba\.calibration"):
        client_config(job, "builtin", {"fedlora.x": "y"}, ())


@pytest.mark.parametrize("key", ["tuner", "codec"])
def test_code_runs_only_where_the_operator_allows_it(key: str) -> None:
    job = job_of(**{key: "attack.module:Class"})
    with pytest.raises(InputError, match=r"start with --allow-part attack\.module:Class"):
        client_config(job, "builtin", {}, ["attack.module:Other"])
    # Allowed by name it is asked for, and is then missing here.
    config = client_config(job, "builtin", {}, ["attack.module:Class"])
    assert getattr(config, key) == "attack.module:Class"


@pytest.mark.parametrize(
    "keys",
    [
        {"planner": "attack.module:Class"},
        {"cell": {"trace": "/etc/passwd"}},
        {"data": {"train": "/etc/passwd"}},
        {"model": "/etc"},
        {"nothing": 1},
    ],
)
def test_other_keys_are_refused(keys: dict[str, Any]) -> None:
    job = job_of()
    forged = job.model_copy(update={"experiment": {**job.experiment, **keys}})
    with pytest.raises(InputError):
        client_config(forged, "builtin", {}, ())


def test_placeholders_in_a_job_stay_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server cannot read a client's environment."""
    monkeypatch.setenv("HOME_OF_SECRETS", "private")
    job = job_of()
    values = {**job.experiment["data"], "system": "${HOME_OF_SECRETS}"}
    forged = job.model_copy(update={"experiment": {**job.experiment, "data": values}})
    assert client_config(forged, "builtin", {}, ()).data.system == "${HOME_OF_SECRETS}"


def test_other_contents_are_named() -> None:
    job = job_of()
    compare_contents(job, {"the base weights": "0" * 32, "more": "1"}, "Client 3")
    with pytest.raises(AirtuneError, match=r"Client 3 has other contents .* in the base weights"):
        compare_contents(job, {"the base weights": "1" * 32}, "Client 3")


def test_other_versions_are_named() -> None:
    with pytest.raises(AirtuneError, match="install the same version on both"):
        check_versions(job_of())


def test_what_cannot_be_deployed() -> None:
    for keys, problem in (
        ({"backend": "ray"}, "backend is ray"),
        ({"method": "jcpba", "jcpba": {"budget_search": True}}, "jcpba: budget-search"),
    ):
        with pytest.raises(InputError, match=problem):
            refuse_undeployable(checked(keys))


def test_a_client_with_another_model_is_told_and_tells(tmp_path: Path) -> None:
    """The sentence is said on both sides, and the server waits for the right client."""
    base = load_base("builtin", "fp32")
    with torch.no_grad():
        next(base.model.parameters()).mul_(2.0)
    other = tmp_path / "other"
    base.model.save_pretrained(other)
    base.tokenizer.save_pretrained(other)
    job = deployment(tmp_path, "clients.count=1", "rounds=1")
    server = job.start_server()
    wrong = job.start_client(0, model=str(other))
    wrong.join(120.0)
    sentence = str(job.errors.pop("client 0"))
    assert "Client 0 has other contents than its server in the base weights" in sentence
    assert any(sentence in said for said in job.said)
    assert server.is_alive()
    right = job.start_client(0)
    for thread in (right, server):
        thread.join(120.0)
        assert not thread.is_alive()
    assert job.errors == {}
