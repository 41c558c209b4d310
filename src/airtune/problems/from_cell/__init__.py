"""Planning problems that name a model, a cell and devices instead of numbers per client.

The sections `model`, `adapter`, `cell`, `clients` and `training` are those of an experiment for
`airtune run`; the method's own keys stand beside them, at the top. One module per method turns
them into the explicit numbers that its reader in `airtune.problems` takes. Nothing is loaded or
trained: the workload of any model follows from its config. Torch is imported only by Sionna, for
the path losses of TR 38.901.

docs/planning-from-a-model.md lists the keys.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from airtune.problems import method_of
from airtune.problems.from_cell.scene import CellProblem

__all__ = ["CellProblem", "from_cell"]


def from_cell(mapping: Mapping[str, Any]) -> CellProblem:
    """The explicit numbers of a problem that names a model and a cell.

    Raises InputError for unknown keys (with a suggestion), values out of range, a model that no
    device of the cell can hold, and channels that explicit numbers cannot express.
    """
    name, _ = method_of(mapping)
    module = import_module(f"airtune.problems.from_cell.{name}")
    return cast(Callable[[Mapping[str, Any]], CellProblem], module.explicit)(mapping)
