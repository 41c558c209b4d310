"""`airtune push` against a hub of this machine: what it is sent, and what it may refuse."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airtune.errors import redacted
from airtune.experiment.card import with_licence
from tests.cli.conftest import airtune

__all__ = ["airtune"]

TOKEN = "hf_not-a-real-token"
CARD = "---\nlibrary_name: peft\nlicense: unknown\ntags: [lora]\n---\n\n# A\n\n## Licence\n\nNot.\n"


class Hub(ThreadingHTTPServer):
    """Answers as the hub does; `status` other than 200 is its answer to everything."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.asked: list[tuple[str, str, bytes]] = []
        self.tokens: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the last commit."""
        lines = [json.loads(line) for line in self.asked[-1][2].splitlines()]
        found = [line["value"] for line in lines if line["key"] == "file"]
        return {file["path"]: base64.b64decode(file["content"]) for file in found}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, content))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(self._answer(path, content)).encode())

    def _answer(self, path: str, content: bytes) -> dict[str, Any]:
        if self.server.status != 200:
            return {"error": "No rights here."}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return {"files": modes}
        if "/commit/" in path:
            address = f"{self.server.address}/me/tuned/commit/abc"
            return {"success": True, "commitOid": "abc", "commitUrl": address}
        return {"url": f"{self.server.address}/me/tuned", "errors": [], "warnings": []}

    def log_message(self, *arguments: Any) -> None:
        """Not to the terminal."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("airtune.errors._templates", {})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What `airtune push` reads of a finished run."""
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    (folder / "experiment.yaml").write_text("format: 2\nrounds: 1\n")
    (folder / "summary.json").write_text("{}")
    (folder / "adapter" / "README.md").write_text(CARD)
    config = {"base_model_name_or_path": f"{tmp_path}/models/little", "r": 8}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"\x00weights")
    (folder / "adapter" / ".litter.partial").write_text("x")
    return folder


def test_the_command_uploads_the_adapter_with_its_card(hub: Hub, finished: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "airtune", "push", str(finished), "me/tuned", "--private"]
    done = subprocess.run(
        [*command, "--revision", "v1"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    names = "README.md, adapter_config.json, adapter_model.safetensors"
    assert done.stdout == f"Uploaded {names}:\n{hub.address}/me/tuned/commit/abc\n"
    paths = [path for _, path, _ in hub.asked]
    assert paths[:2] == ["/api/repos/create", "/api/models/me/tuned/branch/v1"]
    assert paths[-1] == "/api/models/me/tuned/commit/v1"
    created = json.loads(hub.asked[0][2])
    assert created["name"] == "tuned"
    assert "private" in json.dumps(created)
    assert hub.files["README.md"] == CARD.encode()
    assert hub.files["adapter_model.safetensors"] == b"\x00weights"
    # The hub is told the base model's name, not where it is on this machine.
    assert json.loads(hub.files["adapter_config.json"]) == {
        "base_model_name_or_path": "little",
        "r": 8,
    }
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_another_licence_is_put_into_the_card(airtune: Any, hub: Hub, finished: Path) -> None:
    assert airtune("push", finished, "me/tuned", "--license", "apache-2.0")[0] == 0
    card = hub.files["README.md"].decode()
    assert card == with_licence(CARD, "apache-2.0")
    assert "\nlicense: apache-2.0\n" in card
    assert "unknown" not in card
    assert (finished / "adapter" / "README.md").read_text() == CARD
    paths = [path for _, path, _ in hub.asked]
    assert paths[-1].endswith("/commit/main")
    assert not any("/branch/" in path for path in paths)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "check HF_TOKEN, or run `hf auth login` again"),
        (403, "use a token that may write there"),
        (404, "check owner and name"),
        (400, "try again later"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    airtune: Any, hub: Hub, finished: Path, status: int, remedy: str
) -> None:
    hub.status = status
    code, out, err = airtune("push", finished, "me/tuned")
    assert (code, out) == (2, "")
    assert err.startswith(f"airtune: {hub.address} refused the upload to me/tuned (status {status}")
    assert err.endswith(f": {remedy}.\n")
    assert err.count("\n") == 1
    assert TOKEN not in err
    assert redacted(f"Bearer {TOKEN}") == "Bearer ${HF_TOKEN}"


def test_without_a_network_or_a_login(
    airtune: Any, hub: Hub, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    code, _, err = airtune("push", finished, "me/tuned")
    assert code == 2
    assert err.startswith("airtune: http://127.0.0.1:9 cannot be reached (ConnectError")
    assert err.endswith("try again with a network; nothing was uploaded.\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = airtune("push", finished, "me/tuned")
    assert (code, err) == (2, "airtune: HF_HUB_OFFLINE is set: unset it to upload.\n")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    code, _, err = airtune("push", finished, "me/tuned")
    assert code == 2
    assert err.startswith("airtune: There is no login for the hub: set HF_TOKEN to a token that")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("summary.json", "it must be the folder of a finished run: `airtune resume"),
        ("adapter/README.md", "it must be a result with its card: `airtune resume"),
        ("experiment.yaml", "it has no experiment.yaml"),
    ],
)
def test_a_run_without_a_result_is_refused(
    airtune: Any, hub: Hub, finished: Path, lost: str, words: str
) -> None:
    (finished / lost).unlink()
    code, _, err = airtune("push", finished, "me/tuned")
    assert code == 2
    assert words in err
    assert hub.asked == []


@pytest.mark.parametrize("name", ["tuned", "me/tuned/main", "me/..", "", "me/a b"])
def test_a_name_that_the_hub_does_not_have(
    airtune: Any, hub: Hub, finished: Path, name: str
) -> None:
    code, _, err = airtune("push", finished, name)
    assert code == 2
    assert "must be of the form OWNER/NAME" in err
    code, _, err = airtune("push", finished, "me/tuned", "--license", "My own\nlicense: mit")
    assert "--license is My own license: mit, but it must be an identifier of the hub" in err
    assert hub.asked == []
