"""Who takes part in a round: with which probability, and who was drawn.

Without a sampler a cohort is drawn uniformly (`context.draw_cohort`). A planner that is also a
`Sampler` draws its own from what it sees of all clients, and an update then counts a_n / q_n
(`update.weighting.Unbiased`), unless the method weighs otherwise.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from airtune.federated.draw import Draw
from airtune.federated.view import PlanningView


class Sampler(ABC):
    """Draws the cohort of a round."""

    @abstractmethod
    def draw(self, view: PlanningView, state: Mapping[str, Any]) -> Draw:
        """The cohort, from all clients as estimated and the planner's state.

        Called once a round, where any client has a signal; random draws come from (seed, round).
        """
