"""A user's channel model: the key `cell.channel`, an import path as for other parts.

The model says what each link's power gain is; powers, noise, rates and everything behind them are
the cell's. Whatever it raises or answers wrongly becomes a sentence with the model, the round and
the client.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

import numpy as np

from airtune.errors import AirtuneError, foreign_code
from airtune.quantities import FloatArray
from airtune.seeds import NO_CLIENT, generator
from airtune.user_parts import Spec, check_class, made_part, name_and_options
from airtune.wireless.attenuation import Clients
from airtune.wireless.cell import CellSettings
from airtune.wireless.state import ChannelState

_FIELD = "cell.channel"
_MEND = "mend it, then run the command again"


@dataclass(frozen=True)
class ModelledCell:
    """What a channel model is given: the `cell` section, the number of clients, the run's seed."""

    settings: CellSettings
    clients: int
    seed: int

    def random(
        self, purpose: str, round_index: int = 0, client: int = NO_CLIENT
    ) -> np.random.Generator:
        """A generator of its own for each purpose, round and client.

        The same three give the same draws, in whatever order rounds and clients are asked for, so
        that a resumed run has the same channel.
        """
        return generator(self.seed, f"channel model: {purpose}", round_index, client)


class ChannelModel:
    """A channel model of a user's own: override `gain`, or `gains` for all clients at once.

    Gains must follow from their arguments alone. A run asks for any round, also twice and out of
    order.
    """

    def gain(self, round_index: int, client: int, cell: ModelledCell) -> float:
        """Power gain of one client's whole link, antennas included, linear; 0: out of reach.

        Rounds and clients count from 0. A path loss of L dB is the gain 10^(-L / 10). Uplink and
        downlink see the same gain.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has neither gain nor gains")

    def gains(self, round_index: int, cell: ModelledCell) -> FloatArray:
        """Power gains of all links [client]; by default, `gain` of each."""
        return np.array([self.gain(round_index, client, cell) for client in range(cell.clients)])


class UserCell:
    """Truth by a user's channel model; places, path loss and fading of its clients are unknown.

    Raises InputError, naming `cell.channel`, for a class that cannot be imported or made.
    """

    def __init__(self, settings: CellSettings, clients: int, seed: int) -> None:
        assert settings.channel is not None
        self._name, self._model = _made(settings.channel)
        self._cell = ModelledCell(settings, clients, seed)
        self._budget = settings.link_budget()
        self._largest = np.inf if "channel" in settings.meant else 1.0

    def state(self, round_index: int, clients: Clients = None) -> ChannelState:
        """The channel in a round; the gains of other clients than `clients` (None: all) are NaN."""
        count = self._cell.clients
        gain = self._gains(round_index, range(count) if clients is None else clients.tolist())
        unknown = np.full(count, np.nan)
        return ChannelState(
            round_index=round_index,
            position_m=np.full((count, 2), np.nan),
            speed_m_s=unknown,
            line_of_sight=None,
            path_loss_db=unknown,
            shadowing_db=unknown,
            fading_gain=unknown,
            gain=gain,
            spectral_efficiency=unknown,
            budget=self._budget,
        )

    def _gains(self, round_index: int, clients: Iterable[int]) -> FloatArray:
        """Checked gains [client]."""
        found = np.full(self._cell.clients, np.nan)
        together = type(self._model).gains is not ChannelModel.gains
        answers = self._together(round_index) if together else None
        for client in clients:
            answer = answers[client] if answers else self._of_client(round_index, client)
            found[client] = self._checked(answer, round_index, client)
        return found

    def _of_client(self, round_index: int, client: int) -> object:
        with foreign_code(self._place(round_index, client), _MEND):
            return self._model.gain(round_index, client, self._cell)

    def _together(self, round_index: int) -> list[object]:
        with foreign_code(self._place(round_index), _MEND):
            answers = list(self._model.gains(round_index, self._cell))
            if len(answers) != self._cell.clients:
                given = f"{len(answers)} gains, not one for each of {self._cell.clients} clients"
                raise ValueError(f"it answered {given}")
        return answers

    def _checked(self, answer: object, round_index: int, client: int) -> float:
        """A gain as a number; AirtuneError for anything else."""
        if not isinstance(answer, bool) and isinstance(answer, Real):
            gain = float(answer)
            if 0 <= gain <= self._largest and gain < np.inf:
                return gain
        raise AirtuneError(
            f"{self._place(round_index, client)} answered {answer!r}, but a power gain is a number "
            "from 0 to 1: a path loss of L dB is 10^(-L / 10); a larger one that is meant needs "
            "unusual_values: channel in the cell."
        )

    def _place(self, round_index: int, client: int | None = None) -> str:
        whom = "" if client is None else f" for client {client}"
        return f"The channel model {self._name} in round {round_index + 1}{whom}"


def _made(spec: Spec) -> tuple[str, ChannelModel]:
    name, options = name_and_options(spec, _FIELD)
    check_class(name, options, (ChannelModel,), _FIELD)
    model: ChannelModel = made_part(name, options, _FIELD)
    return name, model
