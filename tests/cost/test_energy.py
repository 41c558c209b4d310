"""Energy per client: by hand, linear in every duration and power, refused where unknown."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.cost.device import AMPLIFIER_EFFICIENCY, client_energy, energy_j, load_devices
from airtune.errors import InputError

positive = st.floats(1e-6, 1e6)


def test_by_hand() -> None:
    energy = energy_j(
        np.array([10.0, 0.0]), np.array([2.0, 3.0]), np.array([5.0, 5.0]), np.array([0.2, 0.1]), 0.5
    )
    assert energy.tolist() == [10 * 5 + 2 * 0.2 / 0.5, 3 * 0.1 / 0.5]


@given(compute=positive, upload=positive, power=positive, tx=positive, factor=positive)
def test_linear(compute: float, upload: float, power: float, tx: float, factor: float) -> None:
    def energy(compute_s: float, upload_s: float, computing_w: float, tx_w: float) -> float:
        columns = np.array([[compute_s], [upload_s], [computing_w], [tx_w]])
        return float(energy_j(columns[0], columns[1], columns[2], columns[3])[0])

    whole = energy(compute, upload, power, tx)
    parts = energy(compute, 0.0, power, tx) + energy(0.0, upload, power, tx)
    assert whole == pytest.approx(parts)
    assert energy(factor * compute, factor * upload, power, tx) == pytest.approx(factor * whole)
    assert energy(compute, upload, factor * power, factor * tx) == pytest.approx(factor * whole)


def test_one_client() -> None:
    device = load_devices()["raspberry-pi-5"]
    energy = client_energy(device, 10.0, 2.0, device.tx_power_w)
    assert energy == pytest.approx(11.0 * 10 + 10**2.3 * 1e-3 / AMPLIFIER_EFFICIENCY * 2)


def test_unknown_power_is_refused_by_name() -> None:
    device = replace(load_devices()["raspberry-pi-5"], computing_power_w=None)
    with pytest.raises(InputError, match="computing_power_w of raspberry-pi-5 is not known"):
        client_energy(device, 1.0, 1.0, 0.2)


@pytest.mark.parametrize("efficiency", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_efficiencies_are_refused(efficiency: float) -> None:
    with pytest.raises(InputError, match="amplifier_efficiency"):
        energy_j(np.ones(1), np.ones(1), np.ones(1), np.ones(1), efficiency)
