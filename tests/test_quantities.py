"""Conversions against their definitions, and numbers as people read them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.quantities import (
    db_to_linear,
    dbm_to_watts,
    format_duration,
    format_quantity,
    linear_to_db,
    watts_to_dbm,
)


def test_known_values() -> None:
    np.testing.assert_allclose(db_to_linear([0.0, 3.0, 10.0, -20.0]), [1, 1.9952623, 10, 0.01])
    np.testing.assert_allclose(dbm_to_watts([0.0, 23.0, 30.0]), [1e-3, 0.19952623, 1.0])
    # -174 dBm/Hz is thermal noise at 290 K: 1.380649e-23 x 290 = 4.004e-21 W/Hz.
    np.testing.assert_allclose(dbm_to_watts(-174.0), 4.004e-21, rtol=6e-3)
    assert linear_to_db(0.0) == -np.inf


@given(st.floats(-300.0, 300.0))
def test_there_and_back(value_db: float) -> None:
    assert linear_to_db(db_to_linear(value_db)) == pytest.approx(value_db, abs=1e-9)
    assert watts_to_dbm(dbm_to_watts(value_db)) == pytest.approx(value_db, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.7e6, "4.7 Mbit"),
        (0.0, "0 bit"),
        (999.9996, "1 kbit"),
        (999.4, "999 bit"),
        (1e-3, "1 mbit"),
        (-2.5e3, "-2.5 kbit"),
        (1e30, "1e+12 Ebit"),
        (float("inf"), "inf bit"),
    ],
)
def test_format_quantity(value: float, text: str) -> None:
    assert format_quantity(value, "bit") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.3141, "0.314 s"),
        (99.4, "99.4 s"),
        (99.6, "1 min 40 s"),
        (250.0, "4 min 10 s"),
        (3599.7, "1 h 00 min"),
        (11220.0, "3 h 07 min"),
        (180000.0, "2 d 2 h"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
