"""Where a model's config comes from: shipped with airtune, a local folder, or a hub."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from airtune.errors import InputError
from airtune.files import read_text
from airtune.suggest import closest

BUILTIN_MODEL = "builtin"
"""The small language model that ships with airtune."""
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def bundled_names() -> list[str]:
    """Names of the published models whose shapes ship with airtune, sorted."""
    folder = files("airtune") / "workload" / "configs"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir())


def read_config(name: str, field: str = "model") -> dict[str, Any]:
    """The config of `builtin`, a bundled name, a local folder, or a hub repository, in this order.

    Only a hub name that is not in the local hub cache touches the network, and only for its
    config.json. Raises InputError, naming `field`, when nothing has this name.
    """
    if name == BUILTIN_MODEL:
        return _parse((files("airtune") / "builtin_model" / "config.json").read_text(), name)
    if name in bundled_names():
        bundled = files("airtune") / "workload" / "configs" / f"{name}.json"
        return _parse(bundled.read_text(encoding="utf-8"), name)
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        raise InputError(
            field,
            name,
            "a model's folder or its config.json, not a YAML file",
            "name the model that stands in it",
        )
    if path.is_file():
        return _parse(read_text(path, field), str(path))
    if path.name == "config.json":
        raise InputError(field, name, "a folder that holds config.json")
    return _parse(read_text(_hub_config(name, field), field), name)


def _parse(text: str, name: str) -> dict[str, Any]:
    def refused(constant: str) -> float:
        raise InputError(name, f"not JSON ({constant} is no number)", "JSON")

    try:
        config = json.loads(text, parse_constant=refused)
    except json.JSONDecodeError as error:
        raise InputError(name, f"not JSON (line {error.lineno}: {error.msg})", "JSON") from None
    except RecursionError:
        raise InputError(name, "nested too deeply", "the flat JSON of a model's config") from None
    if not isinstance(config, Mapping):
        raise InputError(name, f"a {type(config).__name__}", "a JSON object of config keys")
    return dict(config)


def is_cached(name: str, file: str = "config.json") -> bool:
    """Whether the local hub cache holds this file of a repository; no connection is made."""
    return _cached(name, file) is not None


def _cached(name: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def require_hub(name: str, field: str, *, weights: bool = False) -> None:
    """Refuse a name that no hub can have, without asking one, or a hub that cannot be reached.

    Only `owner/name` is looked up: a mistyped word costs no connection. Fails within seconds where
    there is no network, since a download would retry for half a minute. `weights`: a bundled
    config would not do.
    """
    if not _HUB_NAME.fullmatch(name):
        reason = "there is no such folder, and a hub name has the form owner/name"
        raise _unknown(field, name, reason, weights)
    try:
        _connect()
    except ConnectionError as error:
        reason = f"there is no folder {name} in {Path.cwd()}, and the hub answers: {error}"
        raise _unknown(field, name, reason, weights) from None


def _hub_config(name: str, field: str) -> Path:
    """The cached config.json of a hub repository, downloaded if need be."""
    cached = _cached(name, "config.json")
    if cached is not None:
        return cached
    require_hub(name, field)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json"))
    except Exception as error:
        # Kinds of its own, and of its network library.
        raise _unknown(field, name, f"the hub answers: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The message of an exception, on one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _connect() -> None:
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    try:
        get_session().head(constants.ENDPOINT, timeout=5.0)
    except Exception as error:
        # The session's HTTP library is huggingface_hub's choice, and so are its error classes.
        raise ConnectionError(f"no connection to {constants.ENDPOINT}") from error


def _unknown(field: str, name: str, reason: str, weights: bool = False) -> InputError:
    if weights:
        allowed = f"'{BUILTIN_MODEL}', a folder that AutoModelForCausalLM loads, or a hub name"
        return InputError(field, name, allowed, reason)
    bundled = closest(name.split("/")[-1], bundled_names())
    nearest = f"the closest bundled name is {bundled}; " if bundled else ""
    return InputError(
        field,
        name,
        f"'{BUILTIN_MODEL}', a bundled config ({', '.join(bundled_names())}), a folder with "
        "config.json, or a hub name",
        f"{nearest}{reason}",
    )
