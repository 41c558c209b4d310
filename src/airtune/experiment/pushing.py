"""Uploading what a run has trained to the Hugging Face hub, with its model card.

The token is the hub library's own (`HF_TOKEN`, or `hf auth login`), kept out of every message.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from airtune.errors import AirtuneError, InputError, foreign_code, hide, reason_of
from airtune.experiment.card import is_on_hub, with_licence
from airtune.experiment.run import Run
from airtune.experiment.trained import CARD
from airtune.files import read_text

CONFIG = "adapter_config.json"
_REMEDIES = {
    401: "check HF_TOKEN, or run `hf auth login` again",
    403: "use a token that may write there",
    404: "check owner and name",
}
"""By the status of the hub's answer."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class Target:
    """Where an upload goes: `name` is `owner/name`, `revision` a branch, made if it is missing.

    `licence` is the hub's identifier of one, such as `apache-2.0`; None leaves the card's.
    """

    name: str
    private: bool = False
    revision: str | None = None
    licence: str | None = None


def push(run: Run, target: Target) -> tuple[str, list[str]]:
    """Upload the adapter (or the tuned model) of a finished run: the address, and the files.

    Raises InputError for a run without a result and for a name that cannot be one, and AirtuneError
    without a login, without a network, and for what the hub refuses.
    """
    folder = finished_result(run)
    _check(target)
    contents = _contents(folder, target.licence)
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    token = get_token()
    if not token:
        raise AirtuneError(
            "There is no login for the hub: set HF_TOKEN to a token that may write, or run "
            "`hf auth login`."
        )
    hide(token, "${HF_TOKEN}")
    disable_progress_bars()
    api = HfApi(token=token)
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    with _told(api.endpoint, target.name):
        api.create_repo(target.name, private=target.private or None, exist_ok=True)
        if target.revision is not None:
            api.create_branch(target.name, branch=target.revision, exist_ok=True)
        done = api.create_commit(
            target.name,
            operations,
            commit_message="Result of an airtune run",
            revision=target.revision,
        )
    return str(done.commit_url), list(contents)


def finished_result(run: Run) -> Path:
    """The folder of a finished run's adapter or model. Raises InputError where it is not whole."""
    folder = next((f for f in (run.folder.adapter, run.folder.model) if f.is_dir()), None)
    remedy = f"`airtune resume {run.folder.path}` writes what is missing"
    if folder is None or not (run.folder.path / "summary.json").is_file():
        raise InputError("RUN_DIR", str(run.folder.path), "the folder of a finished run", remedy)
    if not (folder / CARD).is_file():
        raise InputError("RUN_DIR", f"{folder} without {CARD}", "a result with its card", remedy)
    return folder


def _check(target: Target) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(target.name)
    except HFValidationError:
        target_is_valid = False
    else:
        target_is_valid = target.name.count("/") == 1
    if not target_is_valid:
        raise InputError("NAME", target.name, "of the form OWNER/NAME, as the hub has them")
    if target.licence is not None and not _LICENCE.fullmatch(target.licence):
        raise InputError(
            "--license", target.licence, "an identifier of the hub, such as apache-2.0"
        )


def _contents(folder: Path, licence: str | None) -> Mapping[str, Path | bytes]:
    """Name -> file, or its changed content: the card's licence, and no path of this machine."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    found: dict[str, Path | bytes] = {path.name: path for path in paths}
    if licence is not None:
        found[CARD] = with_licence(read_text(folder / CARD, "RUN_DIR"), licence).encode()
    if CONFIG in found:
        config = json.loads(read_text(folder / CONFIG, "RUN_DIR"))
        base = str(config.get("base_model_name_or_path") or "")
        if not is_on_hub(base) and PurePath(base).name != base:
            config["base_model_name_or_path"] = PurePath(base).name
            found[CONFIG] = (json.dumps(config, indent=2) + "\n").encode()
    return found


@contextmanager
def _told(endpoint: str, name: str) -> Iterator[None]:
    """What the hub or the way to it refuses, as one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        with foreign_code(f"The upload to {name}"):
            yield
    except AirtuneError as error:
        cause = error.__cause__
        if isinstance(cause, OfflineModeIsEnabled):
            raise AirtuneError("HF_HUB_OFFLINE is set: unset it to upload.") from cause
        if not isinstance(cause, HfHubHTTPError):
            raise AirtuneError(
                f"{endpoint} cannot be reached ({reason_of(cause or error)}): try again with a "
                "network; nothing was uploaded."
            ) from cause
        status = cause.response.status_code
        said = (cause.server_message or reason_of(cause)).rstrip(".")
        remedy = _REMEDIES.get(status, "try again later")
        raise AirtuneError(
            f"{endpoint} refused the upload to {name} (status {status}: {said}): {remedy}."
        ) from cause
