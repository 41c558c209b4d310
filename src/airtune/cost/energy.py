"""Energy that a client spends in a round.

    E = P_compute t_compute + (p / eta) t_upload        [J]

with the device's power draw while it trains, the transmit power p at the antenna, and the power
amplifier's efficiency eta. This is the usual split of federated learning over radio links into
computing and transmitting (Yang et al., IEEE Trans. Wireless Commun. 20(3), 2021, arXiv
1911.02417, section II), with the measured power of the device in place of kappa C f^2, and with the
proportional part of an affine amplifier model. Left out: receiving the broadcast, the modem's and
the device's idle power, the screen, and the server.
"""

import numpy as np

from airtune.cost.device import DeviceProfile
from airtune.errors import InputError
from airtune.quantities import FloatArray

AMPLIFIER_EFFICIENCY = 0.35
"""Radiated over consumed power of a handset's amplifier near full power; assumed, not measured."""


def energy_j(
    compute_s: FloatArray,
    upload_s: FloatArray,
    computing_power_w: FloatArray,
    tx_power_w: FloatArray,
    amplifier_efficiency: float = AMPLIFIER_EFFICIENCY,
) -> FloatArray:
    """The module's formula, elementwise over [client]. Raises InputError for a bad efficiency."""
    if not 0.0 < amplifier_efficiency <= 1.0:
        raise InputError("amplifier_efficiency", amplifier_efficiency, "above 0 and at most 1")
    computing = np.asarray(computing_power_w, dtype=np.float64) * compute_s
    return computing + np.asarray(tx_power_w, dtype=np.float64) / amplifier_efficiency * upload_s


def client_energy(
    device: DeviceProfile, compute_s: float, upload_s: float, tx_power_w: float
) -> float:
    """Energy of one client [J]. Raises InputError for a device whose power is not known."""
    if device.computing_power_w is None:
        raise InputError(
            f"computing_power_w of {device.name}",
            "not known",
            "given",
            "measure what the device draws while it trains and write it into its profile",
        )
    power_w = np.asarray(device.computing_power_w)
    times = np.asarray(compute_s), np.asarray(upload_s)
    return float(energy_j(*times, power_w, np.asarray(tx_power_w)))
