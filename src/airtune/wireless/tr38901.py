"""3GPP TR 38.901 urban micro, urban macro and rural macro cells, computed by Sionna.

Sionna draws from generators of its own and seeds torch's when it is imported. Both are undone
here: importing and drawing leave every global generator as it was.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airtune.errors import AirtuneError
from airtune.quantities import FloatArray

RENEWAL_DISTANCE_M = {"umi": 12.0, "uma": 40.0, "rma": 50.0}
"""Distance after which rays are redrawn: TR 38.901 Table 7.6.3.1-2, cluster and ray specific
random variables, line of sight (the shorter)."""
SIGHT_DISTANCE_M = {"umi": 50.0, "uma": 50.0, "rma": 60.0}
"""Decorrelation distance of the line-of-sight state, the same table."""
SHADOWING_DISTANCE_M = {"umi": (13.0, 10.0), "uma": (50.0, 37.0), "rma": (120.0, 37.0)}
"""Decorrelation distance of shadowing without and with line of sight: Table 7.5-6."""
SPECIFICATION = "19.2"
"""Version of TR 38.901 whose tables are used; Sionna has others, and its default may move."""
GROUP = 16
"""Clients that share one stream of draws. Each stream has numbers for a whole group, so that
clients added later have draws of their own and change no other client's."""
AT_ONCE = 32 * GROUP
"""Clients of one call of Sionna, whose time for few clients hardly depends on how many they are."""


@dataclass(frozen=True)
class SightHypotheses:
    """Both hypotheses for every client; the axis [state] is (without, with line of sight).

    Attributes:
        sight_probability: probability of line of sight [client].
        path_loss_db: [state, client].
        shadowing_db: standard deviation of shadowing [state, client].
    """

    sight_probability: FloatArray
    path_loss_db: FloatArray
    shadowing_db: FloatArray


@dataclass(frozen=True)
class Drop:
    """Clients at the moment at which their rays are drawn.

    Attributes:
        position_m: [client, 2], the base station at the origin.
        velocity_m_s: [client, 2].
        line_of_sight: bool [client].
    """

    position_m: FloatArray
    velocity_m_s: FloatArray
    line_of_sight: NDArray[np.bool_]

    def part(self, chosen: NDArray[np.int64]) -> "Drop":
        """Some of the clients."""
        return Drop(self.position_m[chosen], self.velocity_m_s[chosen], self.line_of_sight[chosen])


class Scenario:
    """One scenario of TR 38.901, version `SPECIFICATION`: outdoor clients, vertical antennas that
    radiate alike in all directions.

    Large scale: line-of-sight probability (Table 7.4.2-1), path loss (Table 7.4.1-1), standard
    deviation of shadowing (Table 7.5-6). Small scale: clusters and rays of clause 7.5, steps 4 to
    11. Left out: indoor and in-car clients, antenna arrays, blockage, and the correlation of delay
    spread, angle spreads and Rician factor between clients or beyond one renewal of the rays.

    Args:
        name: `umi`, `uma` or `rma`.
        carrier_hz: carrier frequency, Hz.
        base_station_height_m: height of the base station's antenna, m.
        client_height_m: height of the clients' antennas, m.
    """

    def __init__(
        self, name: str, carrier_hz: float, base_station_height_m: float, client_height_m: float
    ) -> None:
        self._name = name
        self._heights_m = (base_station_height_m, client_height_m)
        sionna: Any = sionna_models()
        # In double precision, since a Doppler phase grows with the time since the drop.
        exact = {"carrier_frequency": carrier_hz, "precision": "double", "device": "cpu"}
        antenna = sionna.PanelArray(
            num_rows_per_panel=1,
            num_cols_per_panel=1,
            polarization="single",
            polarization_type="V",
            antenna_pattern="omni",
            **exact,
        )
        link = {"ut_array": antenna, "bs_array": antenna, "direction": "uplink", **exact}
        link["spec_version"] = SPECIFICATION
        if name != "rma":
            link["o2i_model"] = "low"
        prefix = {"umi": "UMi", "uma": "UMa", "rma": "RMa"}[name]
        self._large_scale = getattr(sionna, f"{prefix}Scenario")(**link)
        self._rays = getattr(sionna, prefix)(
            enable_pathloss=False, enable_shadow_fading=False, **link
        )

    def large_scale(self, position_m: FloatArray) -> SightHypotheses:
        """Probability of sight, path loss and shadowing at the positions [client, 2]."""
        clients = len(position_m)
        sight = np.repeat([False, True], clients)
        drop = Drop(np.tile(position_m, (2, 1)), np.zeros((2 * clients, 2)), sight)
        scenario = self._large_scale
        scenario.reset_topology()
        # Nothing that is drawn here counts, yet Sionna may advance its generator.
        with _draws_from(0):
            scenario.set_topology(**self._topology(drop))
        shape = (2, clients)
        return SightHypotheses(
            scenario.los_probability.numpy().reshape(shape)[0],
            scenario.basic_pathloss.numpy().reshape(shape),
            # Sionna keeps log10 of seven parameters in the order of its class LSP; 3 is shadowing.
            10.0 * scenario.lsp_log_std[..., 3].numpy().reshape(shape),
        )

    def impulse_response(
        self,
        drop: Drop,
        elapsed_s: float,
        seeds: Sequence[int],
        places: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.complex128], FloatArray]:
        """Complex amplitudes and delays [s] of the paths, both [client, path].

        The power of all paths together has mean 1. `elapsed_s` after the drop the phases have
        turned by each ray's Doppler shift. There is one seed for every `GROUP` clients: those of
        the drop are at the `places` of the groups, one after another (None: the first ones).
        """
        count = len(drop.position_m)
        places = np.arange(count) if places is None else places
        responses = []
        # Filled up with the last client: by its number of entries torch chooses between sums that
        # round differently, and whole groups have none left over.
        order = np.minimum(np.arange(-(-count // GROUP) * GROUP), count - 1)
        for start in range(0, count, AT_ONCE):
            chosen = order[start : start + AT_ONCE]
            groups, which = np.unique(places[chosen] // GROUP, return_inverse=True)
            rows = which * GROUP + places[chosen] % GROUP
            used = [seeds[group] for group in groups]
            responses.append(self._response(drop.part(chosen), elapsed_s, used, rows.tolist()))
        amplitude, delay_s = (np.concatenate(parts) for parts in zip(*responses, strict=True))
        return amplitude[:count], delay_s[:count]

    def _response(
        self, drop: Drop, elapsed_s: float, seeds: Sequence[int], places: Sequence[int]
    ) -> tuple[NDArray[np.complex128], FloatArray]:
        from airtune.wireless.group_draws import GroupDraws

        samples, frequency = (2, 1.0 / elapsed_s) if elapsed_s > 0 else (1, 1.0)
        # Sionna keeps the number of clients of the topology before.
        self._rays.reset_topology()
        with GroupDraws(seeds, GROUP, places):
            self._rays.set_topology(**self._topology(drop))
            amplitude, delay = self._rays(samples, frequency)
        # Sionna's axes: amplitude [batch, rx, rx antenna, tx, tx antenna, path, time sample],
        # delay [batch, rx, tx, path]; every client is a batch entry with one link.
        paths = amplitude[:, 0, 0, 0, 0, :, -1].numpy()
        # With line of sight there are fewer clusters; the spare paths have no power and any delay.
        return paths, np.where(paths == 0, 0.0, delay[:, 0, 0, :].numpy())

    def _topology(self, drop: Drop) -> dict[str, Any]:
        """Every client alone with the base station in a batch entry of its own.

        So no quantity of one client depends on where the others are.
        """
        import torch

        def place(flat: FloatArray, height_m: float) -> Any:
            heights = np.full((len(flat), 1), height_m)
            return torch.from_numpy(np.concatenate([flat, heights], axis=1)[:, None, :])

        base_station = place(np.zeros_like(drop.position_m), self._heights_m[0])
        nowhere = torch.zeros_like(base_station)
        indoors = torch.zeros(nowhere.shape[:2], dtype=torch.bool)
        topology = {
            "ut_loc": place(drop.position_m, self._heights_m[1]),
            "bs_loc": base_station,
            "ut_orientations": nowhere,
            "bs_orientations": nowhere,
            "ut_velocities": place(drop.velocity_m_s, 0.0),
            "in_state": indoors,
            # Left to itself Sionna draws this once and keeps it: the first round would be special.
            "distance_2d_in": torch.zeros(indoors.shape, dtype=torch.float64),
            "los": torch.from_numpy(drop.line_of_sight.reshape(-1, 1, 1)),
        }
        return topology | {"in_car": indoors} if self._name == "rma" else topology


def band_power_gain(
    amplitude: NDArray[np.complex128], delay_s: FloatArray, bandwidth_hz: float
) -> FloatArray:
    """Power gain averaged over a band centred on the carrier [client].

    `(1/B) integral |H(f)|^2 df = sum_ij a_i a_j^* sinc(B (tau_i - tau_j))` for
    `H(f) = sum_i a_i e^(-j 2 pi f tau_i)`, sinc(x) = sin(pi x)/(pi x): exact, no sampling. As B
    goes to 0 it becomes the narrowband gain |sum_i a_i|^2, for wide B the power of all paths.
    Left out: the loss in rate that variation of |H|^2 within the band causes (Jensen).

    Args:
        amplitude: a [client, path].
        delay_s: tau [client, path], s.
        bandwidth_hz: B.
    """
    overlap = np.sinc(bandwidth_hz * (delay_s[:, :, None] - delay_s[:, None, :]))
    product = amplitude[:, :, None] * amplitude[:, None, :].conj()
    power: FloatArray = (product * overlap).real.sum(axis=(1, 2))
    # A deep fade may come out a rounding error below zero.
    return np.maximum(power, 0.0)


def sionna_models() -> ModuleType:
    """Sionna's TR 38.901 models; importing takes a second or two and seeds torch's generators."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), _without_compiler():
        import sionna.phy.channel.tr38901 as models
    if "spec_version" not in signature(models.UMi).parameters:
        raise AirtuneError(
            f"The installed Sionna does not compute TR 38.901 V{SPECIFICATION}: install "
            "sionna-no-rt 2.1 or newer."
        )
    return models  # type: ignore[no-any-return]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Import Sionna without torch's compiler, which takes longer to import than all of Sionna.

    Two decorators of parts that are not used here, `torch.compile` of a demapper and
    `torch.compiler.disable` of a channel estimator, would import it. Where Sionna is imported
    already, nothing is changed.
    """
    import torch

    if "sionna.phy" in sys.modules:
        yield
        return

    def as_it_is(function: Any = None, *given: Any, **options: Any) -> Any:
        return (lambda decorated: decorated) if function is None else function

    with _patched(torch, compile=as_it_is), _patched(torch.compiler, disable=as_it_is):
        yield


@contextmanager
def _patched(module: ModuleType, **replaced: Any) -> Iterator[None]:
    """These names of a module mean something else for a while."""
    before = {name: getattr(module, name) for name in replaced}
    vars(module).update(replaced)
    try:
        yield
    finally:
        vars(module).update(before)


@contextmanager
def _draws_from(seed: int) -> Iterator[None]:
    """Let Sionna draw from this seed, and give it back the generator state that it had."""
    from sionna.phy import config

    generator = config.torch_rng("cpu")
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
