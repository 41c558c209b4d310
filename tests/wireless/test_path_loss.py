"""Path loss against values worked out by hand, and against its own scaling laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.wireless.attenuation import free_space_db, log_distance_db


def test_free_space_is_the_engineers_rule() -> None:
    # 32.45 + 20 log10(d / km) + 20 log10(f / MHz), ITU-R P.525-4 equation 4, rounded there.
    for distance_km, carrier_mhz in [(1.0, 1000.0), (0.2, 3500.0), (12.0, 700.0)]:
        rule = 32.45 + 20 * math.log10(distance_km) + 20 * math.log10(carrier_mhz)
        assert free_space_db(distance_km * 1e3, carrier_mhz * 1e6) == pytest.approx(rule, abs=0.01)


def test_free_space_is_one_over_the_sphere() -> None:
    # Received power of an isotropic antenna: aperture lambda^2 / (4 pi) on a sphere 4 pi d^2.
    distance, carrier = 137.0, 2.6e9
    wavelength = 299792458.0 / carrier
    share = wavelength**2 / (4 * math.pi) / (4 * math.pi * distance**2)
    assert 10 ** (-free_space_db(distance, carrier) / 10) == pytest.approx(share, rel=1e-12)


def test_log_distance_has_the_cellular_constants() -> None:
    assert log_distance_db(1000.0) == pytest.approx(128.1)
    assert log_distance_db(100.0) == pytest.approx(128.1 - 37.6)
    assert log_distance_db(500.0) == pytest.approx(128.1 - 37.6 * 0.30103, abs=1e-4)


@given(st.floats(1.0, 1e5), st.floats(0.0, 200.0), st.floats(0.0, 60.0))
def test_log_distance_shifts_and_scales(distance: float, intercept: float, slope: float) -> None:
    here = log_distance_db(distance, intercept, slope)
    assert log_distance_db(10 * distance, intercept, slope) == pytest.approx(here + slope)
    assert log_distance_db(distance, intercept + 3, slope) == pytest.approx(here + 3)


def test_arrays_keep_their_shape() -> None:
    distance = np.array([[10.0, 20.0], [30.0, 40.0]])
    assert free_space_db(distance, 1e9).shape == log_distance_db(distance).shape == (2, 2)
    assert np.all(np.diff(free_space_db(distance, 1e9).ravel()) > 0)
