"""airtune: plan, simulate and really run federated fine-tuning over wireless links.

    from airtune import Experiment

    run = Experiment(rounds=5).run("runs/five")
    print(run.to_frame())

`plan` solves a planning problem on explicit numbers; `keep_rows` names rows that are in memory.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airtune.data.memory import keep_rows
    from airtune.experiment import Experiment, Run
    from airtune.methods.plan import plan

__version__ = "0.1.0"
__all__ = ["Experiment", "Run", "__version__", "keep_rows", "plan"]

_HOME = {
    "Experiment": "airtune.experiment",
    "Run": "airtune.experiment",
    "keep_rows": "airtune.data.memory",
    "plan": "airtune.methods.plan",
}


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import airtune` costs nothing.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'airtune' has no attribute {name!r}")
