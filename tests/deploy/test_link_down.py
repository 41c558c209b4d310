"""A link that is down for 20 seconds in the middle of a run: the run goes on to the same bytes.

Server and clients are processes in network namespaces of their own, over mutual TLS.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airtune.deploy.issuing import make_keys
from airtune.deploy.links import ShapedLinks, unavailable
from airtune.deploy.shard_files import write_shards
from airtune.experiment import Experiment
from airtune.experiment.reading import read_config
from tests.deploy.harness import SMALL, same_run

REASON = unavailable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
DOWN_S, WITHIN_S, RATE_BPS = 20.0, 300.0, 4e6
METHODS = {
    "fedlora": ("method=fedlora",),
    "sflllm": ("method=sflllm", "training.local_steps=4"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_link_that_is_down_for_a_while(method: str, tmp_path: Path) -> None:
    settings = (*SMALL, "clients.count=2", "rounds=5", *METHODS[method])
    Experiment.load(None, settings).run(tmp_path / "simulated")
    write_shards(read_config(None, settings), tmp_path / "shards")
    with ShapedLinks(2) as links:
        host = links.address("server")
        make_keys(tmp_path / "keys", 2, [host])
        links.all_rates(dict.fromkeys(range(2), (RATE_BPS, RATE_BPS)))
        server = _deploy(
            links,
            "server",
            tmp_path,
            *("server", "--out", str(tmp_path / "real"), "--listen", f"{host}:8443", "-q"),
            *(part for key in settings for part in ("--set", key)),
        )
        clients = [
            _deploy(
                links,
                client,
                tmp_path,
                *("client", "--server", f"{host}:8443", "--threads", "1"),
                *("--data", str(tmp_path / "shards" / f"client-{client}.jsonl")),
                *("--state", str(tmp_path / f"state-{client}")),
            )
            for client in range(2)
        ]
        records = tmp_path / "real" / "rounds.jsonl"
        deadline = time.monotonic() + WITHIN_S
        while not records.exists() or records.read_bytes().count(b"\n") < 2:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        links.down(1)
        time.sleep(DOWN_S)
        done = records.read_bytes().count(b"\n")
        links.up(1)
        assert [process.wait(WITHIN_S) for process in (server, *clients)] == [0, 0, 0]
        assert done < 5, "the run was over before the link was up again"
    same_run(tmp_path / "simulated", tmp_path / "real")


def _deploy(
    links: ShapedLinks, where: int | str, place: Path, *arguments: str
) -> subprocess.Popen[bytes]:
    """A process of `airtune deploy` in a namespace, with its own keys."""
    name = "server" if where == "server" else f"client-{where}"
    keys = ["--keys", str(place / "keys" / name)]
    log = (place / f"{name}.log").open("wb")
    return links.popen(
        where,  # type: ignore[arg-type]
        [sys.executable, "-m", "airtune", "deploy", *arguments, *keys],
        stdout=log,
        stderr=log,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
