"""A method that needs all clients in one process: its deployment is refused before any joins."""

from collections.abc import Mapping
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world


class Nowhere:
    @property
    def files(self) -> Mapping[str, Any]:
        return {}

    def join(self, *_: Any) -> Any:
        raise AssertionError("it is refused before clients join")


def refuses_deployment(settings: list[str], message: str) -> None:
    """The experiment cannot have its clients on other machines, for this reason."""
    with pytest.raises(InputError, match=message):
        build_world(read_config(None, settings), elsewhere=Nowhere())
