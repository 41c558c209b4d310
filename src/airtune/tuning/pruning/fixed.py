"""Slices that stay the same for a whole run: by the weights before round 1.

Every party has those weights, so no adapter has to travel for both ends to agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from torch import Tensor

from airtune.tuning.adapter import AdapterState
from airtune.tuning.pruning.importance import WeightImportance
from airtune.tuning.pruning.slice import Cuts, adapter_cuts
from airtune.tuning.pruning.tuner import Slicer, sliced_model
from airtune.workload.architecture import Architecture


@final
@dataclass(frozen=True, eq=False)
class FixedSlices:
    """Units by the squared norms of their weights, with the adapter before round 1.

    They are scored here and now, once for a run, where the model is handed out.
    """

    model: Any
    adapter: AdapterState

    def __post_init__(self) -> None:
        self._slicer.scores(self.adapter)

    @cached_property
    def _slicer(self) -> Slicer:
        return Slicer(self.model, WeightImportance())

    @property
    def architecture(self) -> Architecture:
        """The whole model's."""
        return self._slicer.architecture

    def cuts(self, pruning_rate: float) -> Cuts:
        """What is kept of every tensor of the adapter."""
        return adapter_cuts(self._slicer.slice(self.adapter, pruning_rate), self.adapter)

    def kept(self, broadcast: Mapping[str, Tensor], pruning_rate: float) -> Mapping[str, Tensor]:
        """True where a coordinate is kept, in whole shapes, whatever was broadcast."""
        return self._slicer.kept(self.adapter, pruning_rate)

    def sliced(self, pruning_rate: float) -> Any:
        """The smaller model; the whole one is left as it was."""
        return sliced_model(self.model, self._slicer.slice(self.adapter, pruning_rate))
