"""Sweeps: training runs or plans over a grid or a list of points.

from airtune.sweeping import sweep

result = sweep("experiment.yaml", {"adapter.rank": [4, 8]}, seeds=2, out="runs/ranks")
print(result.to_frame())
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airtune.sweeping.call import sweep
    from airtune.sweeping.table import Row, SweepResult

__all__ = ["Row", "SweepResult", "sweep"]

_HOME = {
    "Row": "airtune.sweeping.table",
    "SweepResult": "airtune.sweeping.table",
    "sweep": "airtune.sweeping.call",
}


def __getattr__(name: str) -> Any:
    # Resolved on first use: `airtune plan` reads swept keys here and needs nothing else.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'airtune.sweeping' has no attribute {name!r}")
