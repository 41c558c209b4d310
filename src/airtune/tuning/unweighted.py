"""A model without its weights: its config, its tokenizer, and the shapes of what is trained.

For what asks a model about sizes alone, such as the composition of a method whose rounds are
planned and charged, and never trained.
"""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NoReturn, final

import torch
from torch import nn

from airtune.errors import AirtuneError
from airtune.tuning.adapter import AdapterSettings
from airtune.tuning.base_model import (
    BaseModel,
    checked_config,
    load_tokenizer,
    model_location,
)
from airtune.workload.adapter_shape import Trained, adapter_tensors, first_that_fits
from airtune.workload.architecture import Decoder, architecture_of

_ADAPTER_NAME = "default"


class NoWeightsError(AirtuneError):
    """Something asked a model for numbers where only its shapes are known."""


@final
class UnweightedModel:
    """What `trained_parameters`, the config and PEFT's scales of a model are; nothing computes.

    The values of its parameters are zeros that take no memory. Raises NoWeightsError for anything
    else that a model has.
    """

    active_adapter = _ADAPTER_NAME

    def __init__(
        self,
        values: Mapping[str, Any],
        trained: Trained | None = None,
        settings: AdapterSettings | None = None,
    ) -> None:
        """`settings` are the adapter's, None where there is none or every parameter is trained."""
        self.values = values
        self.architecture: Decoder = architecture_of(values)
        self._trained, self._settings = trained, settings
        self.config = SimpleNamespace(
            num_hidden_layers=self.architecture.block_count,
            vocab_size=self.architecture.vocab_size,
            to_dict=lambda: dict(values),
        )

    def with_trained(self, trained: Trained, settings: AdapterSettings | None) -> "UnweightedModel":
        """The model with what is trained of it, or on it."""
        return UnweightedModel(self.values, trained, settings)

    def get_base_model(self) -> "UnweightedModel":
        """The model itself, as in PEFT."""
        return self

    def get_input_embeddings(self) -> Any:
        """Something whose weight has a row for every token id."""
        shape = self.architecture.vocab_size, self.architecture.hidden_size
        return SimpleNamespace(weight=torch.zeros(()).expand(shape))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, under PEFT's names, in module order."""
        if self._trained is not None:
            for name, shape in adapter_tensors(self.architecture, self._trained).items():
                yield name, nn.Parameter(torch.zeros(()).expand(shape))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The same without names."""
        return (parameter for _, parameter in self.named_parameters())

    def modules(self) -> Iterator[Any]:
        """The adapted matrices, each with its scale alpha / rank."""
        settings = self._settings
        if settings is None or self._trained is None:
            return
        for path, rank in self._trained.ranks(self.architecture).items():
            alpha = first_that_fits(path, settings.alpha_pattern, settings.scale_alpha)
            yield SimpleNamespace(scaling={_ADAPTER_NAME: alpha / rank})

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # what copying and pickling ask for
        raise NoWeightsError(
            f"{name} of the model was asked for where its weights are not loaded: only what "
            "follows from shapes is known."
        )


def load_unweighted(
    name: str,
    dtype: str = "fp32",
    device: str = "cpu",
    *,
    compute_dtype: str | None = None,
    trust_remote_code: bool = False,
) -> BaseModel:
    """`base_model.load_base` without reading a weight: the same checks of names and config.

    Not checked is what needs the weights: that they are whole, and that no position looks ahead.
    """
    values = checked_config(name, dtype, compute_dtype, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    return BaseModel(UnweightedModel(values), tokenizer, model_location(name))
