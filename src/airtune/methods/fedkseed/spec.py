"""fedkseed, described."""

from collections.abc import Iterator

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.methods.fedkseed.options import FedkseedSection
from airtune.methods.fedkseed.recorded import Measured
from airtune.methods.spec import Lazy, MethodSpec, Unused

_RATES = {"full": 1e-3, "lora": 5e-3}
"""Learning rates that were measured for the built-in model (docs/fedkseed.md)."""
_PLAIN_STEPS = {"optimizer": "sgd", "max_grad_norm": 0.0, "keep_optimizer": False}


def _plain_steps(config: ExperimentConfig) -> ExperimentConfig:
    """Steps along directions are plain: a model of K numbers has no moments and no clipping.

    Defaults are replaced, that of the learning rate as well; what the experiment states itself is
    refused where it cannot be.
    """
    training = config.training
    for key, needed in _PLAIN_STEPS.items():
        value = getattr(training, key)
        if key in training.model_fields_set and value != needed:
            raise InputError(
                f"training.{key}",
                value,
                f"{needed} with fedkseed, whose steps are plain ones along candidate directions",
                "leave it out",
            )
    rate = training.learning_rate
    if rate is None:
        if config.model != "builtin":
            raise InputError(
                "training.learning_rate",
                None,
                "stated with fedkseed where the model is not the built-in one",
                "rates for gradients are far too high; try 300 over the number of what is trained",
            )
        rate = _RATES[config.adapter.kind]
    changes = {**_PLAIN_STEPS, "learning_rate": rate}
    return config.model_copy(update={"training": training.model_copy(update=changes)})


def _unused(config: ExperimentConfig, options: FedkseedSection) -> Iterator[Unused]:
    needed = f"method is not {config.method}, which takes no gradients"
    for key in ("weight_decay", "gradient_checkpointing"):
        yield f"training.{key}", needed
    yield "adapter.dropout", needed


FEDKSEED = MethodSpec(
    name="fedkseed",
    title="training without a backward pass; up and down travel coefficients on seeded directions",
    references=("Qin et al., arXiv 2312.06353",),
    options=FedkseedSection,
    compose=Lazy("airtune.methods.fedkseed.compose:compose"),
    part_options={"planner": ("bandwidth",), "tuner": ("epsilon",)},
    prepare=_plain_steps,
    unused=_unused,
    needs_factors=False,
    seeded=True,
    recorded={"measured": Measured},
)
