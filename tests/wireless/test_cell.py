"""The cell's settings: every refusal names its field, and the budget is converted right."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.wireless.cell import CellSettings

REFUSED = [
    ("bandwidth_hz", -1.0, {}),
    ("bandwidth_hz", 0.0, {}),
    ("bandwidth_hz", float("nan"), {}),
    ("bandwidth_hz", "10 MHz", {}),
    ("bandwidth_hz", True, {}),
    ("bandwidth_hz", None, {}),
    ("carrier_hz", 0.4e9, {}),
    ("carrier_hz", 60e9, {"path_loss": "rma"}),
    ("radius_m", 6000.0, {}),
    ("min_distance_m", 300.0, {"radius_m": 200.0}),
    ("min_distance_m", 0.5, {"path_loss": "free_space"}),
    ("min_distance_m", 5.0, {}),
    ("speed_m_s", -1.0, {}),
    ("round_interval_s", 0.0, {}),
    ("round_interval_s", 1e6, {"radius_m": 100.0}),
    ("path_loss", "umx", {}),
    ("path_loss", ["umi"], {}),
    ("fading", "nakagami", {}),
    ("fading", "3gpp", {"path_loss": "log_distance"}),
    ("fading_correlation", 1.5, {}),
    ("fading_correlation", 0.5, {}),
    ("shadowing_db", -1.0, {}),
    ("shadowing_distance_m", 0.0, {}),
    ("tx_power_dbm", 200.0, {}),
    ("bs_height_m", 4.0, {"client_height_m": 5.0}),
    ("noise_psd_dbm_hz", 3.0, {}),
    ("noise_figure_db", -2.0, {}),
    ("rate_model", "qam", {}),
    ("implementation_margin_db", -3.0, {}),
    ("overhead_share", -0.01, {}),
    ("overhead_share", 1.0, {}),
    ("overhead_share", float("nan"), {}),
    ("overhead_share", "5 %", {}),
    ("round_trip_s", -0.05, {}),
    ("round_trip_s", float("inf"), {}),
    ("csi_error_db", -1.0, {}),
    ("csi_delay_rounds", -1, {}),
    ("csi_delay_rounds", 1.5, {}),
    ("trace_bandwidth_hz", None, {"trace": "walk.csv"}),
    ("trace", 5, {"trace_bandwidth_hz": 1e8}),
    ("trace", [], {"trace_bandwidth_hz": 1e8}),
    ("trace", ["walk.csv", 3], {"trace_bandwidth_hz": 1e8}),
    ("trace_column", {"a": 1}, {"trace": "walk.csv", "trace_bandwidth_hz": 1e8}),
    ("trace_where", "TCP", {"trace": "walk.csv", "trace_bandwidth_hz": 1e8}),
    ("replay", ["a.csv"], {}),
    ("csi_error_db", 2.0, {"replay": "cell.npz"}),
    ("csi_delay_rounds", 1, {"replay": "cell.npz"}),
    ("trace", "walk.csv", {"replay": "cell.npz", "trace_bandwidth_hz": 1e8}),
]


@pytest.mark.parametrize(("name", "value", "others"), REFUSED)
def test_refusal_names_the_field_and_the_value(
    name: str, value: Any, others: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as refusal:
        CellSettings(**{name: value, **others})
    message = str(refusal.value)
    assert message.startswith(f"cell.{name} is ")
    assert message.endswith((".", "?"))
    shown = "(null|None)" if value is None else re.escape(str(value))
    assert re.search(shown, message)
    assert refusal.value.exit_code == 2


# A value as somebody writes it in another unit, and a word of the hint.
SLIPS = [
    ("bandwidth_hz", 20, "20e6 for 20 MHz", {}),
    ("carrier_hz", 3.5, "3.5e9 for 3.5 GHz", {"path_loss": "free_space"}),
    ("carrier_hz", 3500.0, "3.5e9 for 3.5 GHz", {}),
    ("radius_m", 5e5, "metres", {"path_loss": "log_distance"}),
    ("speed_m_s", 300.0, "km/h", {}),
    ("round_interval_s", 1e-5, "seconds", {}),
    ("round_trip_s", 50.0, "0.05 for 50 ms", {}),
    ("log_distance_intercept_db", 38.0, "at 1 m", {"path_loss": "log_distance"}),
    ("log_distance_slope_db", 3.76, "exponent", {"path_loss": "log_distance"}),
    ("shadowing_distance_m", 0.05, "metres", {}),
    ("tx_power_dbm", 50.0, "in dBm", {}),
    ("bs_tx_power_dbm", -60.0, "in dBm", {}),
    ("noise_psd_dbm_hz", -204.0, "dBW/Hz", {}),
    ("noise_psd_dbm_hz", -104.0, "whole band", {}),
    ("trace_bandwidth_hz", 100, "hertz", {"trace": "walk.csv"}),
]


@pytest.mark.parametrize(("name", "value", "hint", "others"), SLIPS)
def test_a_slip_of_units_is_refused_unless_it_is_meant(
    name: str, value: float, hint: str, others: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as refusal:
        CellSettings(**{name: value, **others})
    message = str(refusal.value)
    assert message.startswith(f"cell.{name} is {value!r}, but it must be ")
    assert hint in message
    assert message.endswith(f"if you mean it, list {name} in cell.unusual_values.")
    if name != "carrier_hz":  # there other limits hold as well
        meant = CellSettings(**{name: value, **others, "unusual_values": name})
        assert getattr(meant, name) == value
    with pytest.raises(InputError):
        CellSettings(**{name: value, **others, "unusual_values": ["rician_k_db"]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bandwidth_hz", 1e-194),
        ("radius_m", 1e300),
        ("tx_power_dbm", -1e6),
        ("log_distance_intercept_db", -1e300),
    ],
)
def test_what_cannot_be_computed_with_is_refused_even_when_meant(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^cell\.{name} is .*a billion times"):
        CellSettings(path_loss="log_distance", unusual_values=name, **{name: value})


def test_a_low_carrier_may_be_meant() -> None:
    short_wave = {"carrier_hz": 7e6, "bandwidth_hz": 3e3, "path_loss": "free_space"}
    with pytest.raises(InputError, match=r"cell\.carrier_hz is 7000000\.0"):
        CellSettings(**short_wave)
    CellSettings(**short_wave, unusual_values=["carrier_hz"])


def test_zero_slope_and_standing_clients_are_usual() -> None:
    CellSettings(path_loss="log_distance", log_distance_slope_db=0, speed_m_s=0)


def test_a_band_does_not_reach_below_zero_hertz() -> None:
    with pytest.raises(InputError, match=r"cell\.bandwidth_hz is .* twice carrier_hz"):
        CellSettings(bandwidth_hz=8e9)
    CellSettings(bandwidth_hz=8e9, path_loss="log_distance")


def test_limits_themselves_are_allowed() -> None:
    CellSettings(min_distance_m=200.0, radius_m=200.0, speed_m_s=0, csi_delay_rounds=0)
    CellSettings(carrier_hz=0.5e9, radius_m=5000, min_distance_m=10, fading_correlation=1)
    CellSettings(path_loss="free_space", fading="none", min_distance_m=1, carrier_hz=60e9)
    CellSettings(path_loss="log_distance", fading_correlation=-1.0)


def test_every_field_is_documented_with_its_unit() -> None:
    for name, field in CellSettings.model_fields.items():
        text = field.description or ""
        assert len(text) > 20, name
        for suffix, unit in [("_hz", "Hz"), ("_m", "m"), ("_db", "dB"), ("_dbm", "dBm")]:
            if name.endswith(suffix):
                assert unit in re.split(r"[ ,;/]", text), name


def test_the_page_of_keys_knows_every_key_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "wireless.md").read_text()
    table = page.split("## The keys")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == {*CellSettings.model_fields}


def test_fading_follows_the_path_loss_unless_given() -> None:
    assert CellSettings().small_scale == "3gpp"
    assert CellSettings(path_loss="log_distance").small_scale == "rayleigh"
    assert CellSettings(path_loss="uma", fading="rician").small_scale == "rician"


def test_heights_follow_the_scenario_unless_given() -> None:
    heights = [CellSettings(path_loss=name).base_station_height_m for name in ("umi", "uma", "rma")]
    assert heights == [10.0, 25.0, 35.0]
    assert CellSettings(bs_height_m=12.0).base_station_height_m == 12.0


def test_link_budget_by_hand() -> None:
    budget = CellSettings(
        tx_power_dbm=20.0,
        bs_tx_power_dbm=40.0,
        noise_psd_dbm_hz=-174.0,
        noise_figure_db=4.0,
        client_noise_figure_db=7.0,
        interference_margin_db=3.0,
        implementation_margin_db=3.0,
    ).link_budget()
    assert budget.tx_power_w == pytest.approx(0.1)
    assert budget.bs_tx_power_w == pytest.approx(10.0)
    # -167 dBm/Hz and -164 dBm/Hz.
    assert budget.uplink_noise_psd == pytest.approx(1.99526e-20, rel=1e-5)
    assert budget.downlink_noise_psd == pytest.approx(3.98107e-20, rel=1e-5)
    assert budget.margin == pytest.approx(1.99526, rel=1e-5)


def test_settings_are_plain_values() -> None:
    assert CellSettings(radius_m=np.float64(100)) == CellSettings(radius_m=100)
