"""The host of worker processes: one thread, no main script, gone when nobody wants it."""

import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from airtune.federated.backends.worker_host import FORKS, WorkerHost


def tell(connection: Connection) -> None:
    """What a worker finds: its parent's threads, and what is `__main__`."""
    parent = os.getppid()
    main = sys.modules["__main__"].__dict__.get("__file__")
    connection.send((parent, len(os.listdir(f"/proc/{parent}/task")), main, "torch" in sys.modules))
    connection.recv()


@pytest.mark.skipif(not FORKS, reason="workers are no forks here")
@pytest.mark.slow
def test_a_host_has_one_thread_when_it_forks() -> None:
    host = WorkerHost()
    workers = [host.start(tell) for _ in range(2)]
    told = [worker.recv() for worker in workers]
    assert told == [(told[0][0], 1, None, True)] * 2
    for worker in workers:
        worker.close()
    host.close()
    assert not alive(told[0][0])


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def sleep(connection: Connection) -> None:
    connection.send(os.getpid())
    time.sleep(600)


def test_a_busy_worker_ends_with_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airtune.federated.backends.worker_host._ENDS_WITHIN_S", 0.1)
    host = WorkerHost(())
    busy = host.start(sleep).recv()
    assert alive(busy)
    host.close()
    until = time.monotonic() + 10
    while alive(busy) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(busy)


def test_a_host_ends_unused_and_twice() -> None:
    host = WorkerHost()
    host.close()
    host.close()


SCRIPT = """
from airtune import Experiment
print("once")
Experiment(rounds=1, clients={"count": 3}, training={"local_steps": 1, "batch_size": 2},
           data={"train_limit": 60, "test_limit": 6, "score_rows": 0}, adapter={"rank": 2},
           cell={"path_loss": "log_distance"}, engine="workers", workers=2).run("run")
print("done")
"""


@pytest.mark.slow
def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "once\ndone\n"), done.stderr
    assert "engine: workers" in (tmp_path / "run/experiment.yaml").read_text()
