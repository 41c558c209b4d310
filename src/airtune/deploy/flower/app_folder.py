"""The Flower app of an experiment, as files: what `airtune deploy flower` writes."""

import json
import re
from pathlib import Path

from airtune.config.experiment import ExperimentConfig
from airtune.config.text import resolved_yaml
from airtune.deploy.flower import app
from airtune.deploy.flower.fit import refuse_unfit
from airtune.deploy.job import client_keys
from airtune.errors import InputError
from airtune.experiment.loading import prepared
from airtune.experiment.paths import with_absolute_paths
from airtune.files import filled_whole

PACKAGE = "airtune_app"
MODULES = ("__init__.py", "server_app.py", "client_app.py")
TEMPLATES = {"pyproject.toml": "pyproject.txt", "README.md": "readme.txt"}
"""File of the app -> the text with {names} that it is made of."""


def write_app(config: ExperimentConfig, folder: Path, out: Path | None = None) -> Path:
    """Write the app of an experiment into a new or empty folder; the run's folder that it names.

    `out` is that folder, on the server's machine; by default it is `folder` with `-run` behind.
    Raises InputError for an experiment that Flower cannot carry.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("DIR", str(folder), "a new or empty folder", "choose another one")
    refuse_unfit(prepared(config))
    client_keys(config)
    folder, source = folder.absolute(), Path(app.__path__[0])
    run = folder.with_name(f"{folder.name}-run") if out is None else out.absolute()
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "airtune-app"
    facts = {
        "name": name,
        "package": PACKAGE,
        "out": json.dumps(str(run)),
        "folder": run,
        "count": config.clients.count,
        "last": config.clients.count - 1,
        "method": config.method,
        "rounds": config.rounds,
    }
    with filled_whole("DIR", folder) as place:
        (place / PACKAGE).mkdir()
        for module in MODULES:
            (place / PACKAGE / module).write_text((source / module).read_text())
        for written, template in TEMPLATES.items():
            text = (source / template).read_text().format(**facts)
            (place / written).write_text(text)
        (place / "experiment.yaml").write_text(resolved_yaml(with_absolute_paths(config)))
    return run
