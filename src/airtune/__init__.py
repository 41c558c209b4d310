"""airtune: plan, simulate and really run federated fine-tuning over wireless links.

    from airtune import Experiment

    run = Experiment(rounds=5).run("runs/five")
    print(run.to_frame())

`plan` solves a planning problem on explicit numbers, `profile` counts a training step of any model,
`devices` has the device profiles, `advise` answers what would help without training, `compare` runs
several methods and `sweep` several values of keys; `keep_rows` and `keep_model` name
what is in memory; `check_part` tries a user-defined part.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airtune.advising.adviser import advise
    from airtune.advising.answer import Advice
    from airtune.comparison.compare import Compared, compare
    from airtune.cost.device import load_devices as devices
    from airtune.data.memory import keep_rows
    from airtune.experiment import Experiment, Listener, Run
    from airtune.experiment.part_check import PartCheck, check_part
    from airtune.methods.plan import Planned, plan
    from airtune.sweeping.call import sweep
    from airtune.sweeping.table import SweepResult
    from airtune.tuning.kept_model import keep_model
    from airtune.workload.profile import Profile
    from airtune.workload.profile import Profile as profile

__version__ = "0.1.0"

_HOME = {
    "Advice": "airtune.advising.answer",
    "Compared": "airtune.comparison.compare",
    "Experiment": "airtune.experiment",
    "Listener": "airtune.experiment",
    "PartCheck": "airtune.experiment.part_check",
    "Planned": "airtune.methods.plan",
    "Profile": "airtune.workload.profile",
    "Run": "airtune.experiment",
    "SweepResult": "airtune.sweeping.table",
    "advise": "airtune.advising.adviser",
    "check_part": "airtune.experiment.part_check",
    "compare": "airtune.comparison.compare",
    "devices": "airtune.cost.device:load_devices",
    "keep_model": "airtune.tuning.kept_model",
    "keep_rows": "airtune.data.memory",
    "plan": "airtune.methods.plan",
    "profile": "airtune.workload.profile:Profile",
    "sweep": "airtune.sweeping.call",
}
__all__ = [
    "Advice",
    "Compared",
    "Experiment",
    "Listener",
    "PartCheck",
    "Planned",
    "Profile",
    "Run",
    "SweepResult",
    "__version__",
    "advise",
    "check_part",
    "compare",
    "devices",
    "keep_model",
    "keep_rows",
    "plan",
    "profile",
    "sweep",
]


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import airtune` costs nothing.
    if name in _HOME:
        from importlib import import_module

        module, _, other = _HOME[name].partition(":")
        return getattr(import_module(module), other or name)
    raise AttributeError(f"module 'airtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
