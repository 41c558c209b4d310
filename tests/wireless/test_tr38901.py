"""TR 38.901 through Sionna against the standard's own formulas, written out again here."""

import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from airtune.errors import AirtuneError
from airtune.wireless import tr38901
from airtune.wireless.tr38901 import GROUP, Drop, Scenario, band_power_gain

HEIGHTS = {"umi": 10.0, "uma": 25.0, "rma": 35.0}
CARRIER_GHZ = {"umi": 3.5, "uma": 28.0, "rma": 0.7}
# TR 38.901 takes c = 3e8 m/s; Sionna the exact value. Behind the break point that is 0.01 dB.
C = 3.0e8


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Scenario]:
    return {name: Scenario(name, CARRIER_GHZ[name] * 1e9, HEIGHTS[name], 1.5) for name in HEIGHTS}


def _umi(d2: float, f: float, sight: bool) -> float:
    """Table 7.4.1-1, UMi street canyon, h_UT 1.5 m, h_E 1 m."""
    d3 = math.hypot(d2, 8.5)
    break_m = 4 * (10.0 - 1.0) * (1.5 - 1.0) * f * 1e9 / C
    if d2 <= break_m:
        los = 32.4 + 21 * math.log10(d3) + 20 * math.log10(f)
    else:
        los = 32.4 + 40 * math.log10(d3) + 20 * math.log10(f)
        los -= 9.5 * math.log10(break_m**2 + 8.5**2)
    nlos = 35.3 * math.log10(d3) + 22.4 + 21.3 * math.log10(f)
    return los if sight else max(los, nlos)


def _uma(d2: float, f: float, sight: bool) -> float:
    """Table 7.4.1-1, UMa, h_UT 1.5 m, h_E 1 m."""
    d3 = math.hypot(d2, 23.5)
    break_m = 4 * (25.0 - 1.0) * (1.5 - 1.0) * f * 1e9 / C
    if d2 <= break_m:
        los = 28.0 + 22 * math.log10(d3) + 20 * math.log10(f)
    else:
        los = 28.0 + 40 * math.log10(d3) + 20 * math.log10(f)
        los -= 9 * math.log10(break_m**2 + 23.5**2)
    nlos = 13.54 + 39.08 * math.log10(d3) + 20 * math.log10(f)
    return los if sight else max(los, nlos)


def _rma(d2: float, f: float, sight: bool) -> float:
    """Table 7.4.1-1, RMa, buildings h 5 m, street W 20 m, h_BS 35 m, h_UT 1.5 m."""
    h, w, bs, ut = 5.0, 20.0, 35.0, 1.5
    d3 = math.hypot(d2, bs - ut)

    def near(d: float) -> float:
        return float(
            20 * math.log10(40 * math.pi * d * f / 3)
            + min(0.03 * h**1.72, 10) * math.log10(d)
            - min(0.044 * h**1.72, 14.77)
            + 0.002 * math.log10(h) * d
        )

    break_m = 2 * math.pi * bs * ut * f * 1e9 / C
    los = near(d3) if d2 <= break_m else near(break_m) + 40 * math.log10(d3 / break_m)
    nlos = (
        161.04
        - 7.1 * math.log10(w)
        + 7.5 * math.log10(h)
        - (24.37 - 3.7 * (h / bs) ** 2) * math.log10(bs)
        + (43.42 - 3.1 * math.log10(bs)) * (math.log10(d3) - 3)
        + 20 * math.log10(f)
        - (3.2 * math.log10(11.75 * ut) ** 2 - 4.97)
    )
    return los if sight else max(los, nlos)


PATH_LOSS = {"umi": _umi, "uma": _uma, "rma": _rma}
SIGHT: dict[str, Callable[[float], float]] = {
    "umi": lambda d: 1.0 if d <= 18 else 18 / d + math.exp(-d / 36) * (1 - 18 / d),
    "uma": lambda d: 1.0 if d <= 18 else 18 / d + math.exp(-d / 63) * (1 - 18 / d),
    "rma": lambda d: 1.0 if d <= 10 else math.exp(-(d - 10) / 1000),
}


@pytest.mark.parametrize("name", list(HEIGHTS))
def test_large_scale_is_the_standards_tables(scenarios: dict[str, Scenario], name: str) -> None:
    distance = np.array([10.0, 17.0, 40.0, 99.0, 205.0, 215.0, 800.0, 2500.0, 4900.0])
    bearing = np.arange(len(distance))
    position = np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], axis=1)
    both = scenarios[name].large_scale(position)
    for state in (0, 1):
        expected = [PATH_LOSS[name](d, CARRIER_GHZ[name], bool(state)) for d in distance]
        assert both.path_loss_db[state] == pytest.approx(expected, abs=0.02)
    assert both.sight_probability == pytest.approx([SIGHT[name](d) for d in distance], abs=1e-9)
    # Table 7.4.1-1: UMi 7.82 and 4, UMa 6 and 4, RMa 8 and 4, or 6 behind the break point.
    blocked = {"umi": 7.82, "uma": 6.0, "rma": 8.0}[name]
    assert both.shadowing_db[0] == pytest.approx(np.full(len(distance), blocked))
    behind = distance > 2 * math.pi * 35 * 1.5 * 0.7e9 / C if name == "rma" else distance < 0
    assert both.shadowing_db[1] == pytest.approx(np.where(behind, 6.0, 4.0))


def _drop(clients: int, sight: bool, speed: float = 0.0) -> Drop:
    bearing = np.arange(clients) * 0.7
    away = np.stack([np.cos(bearing), np.sin(bearing)], axis=1)
    return Drop(80.0 * away, speed * away[::-1], np.full(clients, sight))


def _seeds(clients: int, first: int = 1) -> list[int]:
    return list(range(first, first + -(-clients // GROUP)))


@pytest.mark.parametrize("sight", [False, True])
def test_paths_have_unit_mean_power(scenarios: dict[str, Scenario], sight: bool) -> None:
    clients = 25 * GROUP
    amplitude, delay = scenarios["umi"].impulse_response(
        _drop(clients, sight), 0.0, _seeds(clients)
    )
    narrow = np.abs(amplitude.sum(axis=1)) ** 2
    assert narrow.mean() == pytest.approx(1.0, abs=4 * narrow.std() / math.sqrt(clients))
    assert np.all(delay >= 0)
    if not sight:
        # Many rays, no direct one: Rayleigh over clients.
        assert stats.kstest(narrow, "expon").pvalue > 1e-3
    wide = band_power_gain(amplitude, delay, 100e6)
    assert wide.mean() == pytest.approx(1.0, abs=0.1)
    assert wide.std() < 0.8 * narrow.std()


def test_band_gain_is_the_mean_of_sionnas_frequency_response(
    scenarios: dict[str, Scenario],
) -> None:
    from sionna.phy.channel import cir_to_ofdm_channel

    amplitude, delay = scenarios["uma"].impulse_response(_drop(5, False), 0.0, _seeds(5))
    bandwidth, points = 20e6, 4000
    frequency = ((np.arange(points) + 0.5) / points - 0.5) * bandwidth
    response = cir_to_ofdm_channel(
        torch.from_numpy(frequency),
        torch.from_numpy(amplitude[:, None, None, None, None, :, None]),
        torch.from_numpy(delay[:, None, None, :]),
    )
    mean = (response.abs() ** 2).mean(dim=-1).numpy().ravel()
    assert band_power_gain(amplitude, delay, bandwidth) == pytest.approx(mean, rel=1e-5)


def test_band_gain_at_its_limits() -> None:
    amplitude = np.array([[0.6, 0.3j, -0.2]])
    delay = np.array([[0.0, 1e-7, 7e-7]])
    assert band_power_gain(amplitude, delay, 1e-3)[0] == pytest.approx(abs(amplitude.sum()) ** 2)
    wide = band_power_gain(amplitude, delay, 1e12)[0]
    assert wide == pytest.approx(np.sum(np.abs(amplitude) ** 2), rel=1e-4)
    assert np.all(band_power_gain(np.array([[1.0, -1.0]]), np.zeros((1, 2)), 1e6) == 0.0)


def test_doppler_turns_the_phases_only_of_clients_that_move(
    scenarios: dict[str, Scenario],
) -> None:
    standing, moving = _drop(3, False), _drop(3, False, speed=1.0)
    umi = scenarios["umi"]
    start, delay = umi.impulse_response(moving, 0.0, _seeds(3))
    soon, same_delay = umi.impulse_response(moving, 1e-4, _seeds(3))
    later, _ = umi.impulse_response(moving, 10.0, _seeds(3))
    assert np.array_equal(delay, same_delay)
    # 1e-4 s at 1 m/s is a thousandth of the wavelength of 8.6 cm.
    assert np.abs(soon - start).max() < 0.02 * np.abs(start).max()
    assert np.abs(later - start).max() > 0.1 * np.abs(start).max()
    rest = umi.impulse_response(standing, 10.0, _seeds(3))[0]
    assert rest == pytest.approx(umi.impulse_response(standing, 0.0, _seeds(3))[0], rel=1e-12)


def test_narrowband_gain_decorrelates_as_the_wavelength_says(
    scenarios: dict[str, Scenario],
) -> None:
    """After a twentieth of a wavelength the gain is still akin, after thirty no more."""
    clients, wavelength = 20 * GROUP, 299792458.0 / 3.5e9
    drop = _drop(clients, False, speed=1.0)

    def field(way_m: float) -> np.ndarray:
        response = scenarios["umi"].impulse_response(drop, way_m, _seeds(clients))
        summed: np.ndarray = response[0].sum(axis=1)
        return summed

    start = field(0.0)
    power = np.mean(np.abs(start) ** 2)
    near, far = (
        abs(np.mean(field(share * wavelength) * start.conj())) / power for share in (0.05, 30.0)
    )
    assert near > 0.9
    assert far < 0.2


def test_the_version_of_the_specification_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sionna's own default may move; every model is asked for the version that is documented."""
    sionna = tr38901.sionna_models()
    asked = []
    for name in ("UMi", "UMiScenario"):
        real = getattr(sionna, name)

        def spy(*, real: Any = real, **options: Any) -> Any:
            asked.append(options["spec_version"])
            return real(**options)

        monkeypatch.setattr(sionna, name, spy)
    monkeypatch.setattr(tr38901, "sionna_models", lambda: sionna)
    Scenario("umi", 3.5e9, 10.0, 1.5).large_scale(np.array([[50.0, 0.0]]))
    assert asked == ["19.2", "19.2"]
    assert "V19.2" in (Path(__file__).parents[2] / "docs" / "wireless.md").read_text()


def test_an_older_sionna_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sionna = tr38901.sionna_models()
    monkeypatch.setattr(sionna, "UMi", lambda carrier_frequency: None)
    with pytest.raises(AirtuneError, match=r"install sionna-no-rt 2\.1 or newer"):
        Scenario("umi", 3.5e9, 10.0, 1.5)


def test_draws_depend_on_the_seed_and_not_on_other_clients(scenarios: dict[str, Scenario]) -> None:
    umi = scenarios["umi"]
    few, _ = umi.impulse_response(_drop(3, False), 0.0, _seeds(3))
    many, _ = umi.impulse_response(_drop(40, False), 0.0, _seeds(40))
    other, _ = umi.impulse_response(_drop(3, False), 0.0, _seeds(3, first=9))
    assert np.array_equal(few, many[:3])
    assert not np.allclose(few, other)
    assert not np.allclose(many[:3], many[GROUP : GROUP + 3])


@pytest.mark.parametrize("name", ["umi", "uma", "rma"])
@pytest.mark.parametrize("elapsed_s", [0.0, 10.0])
def test_many_clients_at_once_are_each_group_alone(
    scenarios: dict[str, Scenario], name: str, elapsed_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, as Sionna computes a single group from its own generator."""
    scenario, clients = scenarios[name], 3 * GROUP + 5
    bearing = np.arange(clients) * 0.7
    place = (40.0 + np.arange(clients))[:, None] * np.stack([np.cos(bearing), np.sin(bearing)], 1)
    drop = Drop(place, 0.02 * place[:, ::-1], np.arange(clients) % 3 == 0)
    whole = scenario.impulse_response(drop, elapsed_s, _seeds(clients))
    monkeypatch.setattr(tr38901, "AT_ONCE", 2 * GROUP)
    pieces = scenario.impulse_response(drop, elapsed_s, _seeds(clients))
    some = np.array([1, GROUP - 1, GROUP, 3 * GROUP + 4])
    few = scenario.impulse_response(drop.part(some), elapsed_s, _seeds(clients), some)
    for found, piece, chosen in zip(whole, pieces, few, strict=True):
        assert np.array_equal(found, piece)
        assert np.array_equal(found[some], chosen)
    for number, seed in enumerate(_seeds(clients)[:3]):
        own = slice(number * GROUP, (number + 1) * GROUP)
        alone = _alone(scenario, drop.part(np.arange(clients)[own]), elapsed_s, seed)
        for found, single in zip(whole, alone, strict=True):
            assert np.array_equal(found[own], single)


def _alone(scenario: Scenario, drop: Drop, elapsed_s: float, seed: int) -> tuple[Any, Any]:
    """Sionna's own answer for one whole group, from its own generator."""
    samples, frequency = (2, 1.0 / elapsed_s) if elapsed_s > 0 else (1, 1.0)
    scenario._rays.reset_topology()
    with tr38901._draws_from(seed):
        scenario._rays.set_topology(**scenario._topology(drop))
        amplitude, delay = scenario._rays(samples, frequency)
    paths = amplitude[:, 0, 0, 0, 0, :, -1].numpy()
    return paths, np.where(paths == 0, 0.0, delay[:, 0, 0, :].numpy())


def test_draws_without_an_axis_of_clients_are_refused() -> None:
    """Another Sionna may draw otherwise; then no numbers are better than others."""
    from airtune.wireless.group_draws import GroupDraws

    stream = torch.Generator()
    with GroupDraws([1, 2], GROUP, range(2 * GROUP)):
        assert torch.rand((2 * GROUP, 3), generator=stream).shape == (2 * GROUP, 3)
        with pytest.raises(AirtuneError, match=r"install sionna-no-rt 2\.1"):
            torch.rand((3, 2 * GROUP), generator=stream)


def test_the_first_draw_is_like_any_other() -> None:
    """Sionna keeps some random fields from its first topology; none of them may matter here."""
    fresh = Scenario("umi", 3.5e9, 10.0, 1.5)
    first = fresh.impulse_response(_drop(3, False), 0.0, _seeds(3))
    fresh.impulse_response(_drop(3, True, speed=2.0), 7.0, _seeds(3, first=9))
    again = fresh.impulse_response(_drop(3, False), 0.0, _seeds(3))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002 - the global generator is meant
    return [int(word) for word in state[1]]


def test_global_generators_are_left_alone(scenarios: dict[str, Scenario]) -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global generator is what must not move
    random.seed(3)
    before = torch.get_rng_state(), numpy_state(), random.getstate()
    Scenario("umi", 3.5e9, 10.0, 1.5).large_scale(np.array([[50.0, 0.0]]))
    scenarios["umi"].impulse_response(_drop(3, False), 0.0, _seeds(3))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy_state() == before[1]
    assert random.getstate() == before[2]


def test_importing_sionna_leaves_torchs_generator_alone() -> None:
    """Its import seeds torch's default generator, and only the first import in a process does."""
    code = (
        "import sys, torch; torch.manual_seed(3); before = torch.get_rng_state();"
        "from airtune.wireless.tr38901 import Scenario; Scenario('umi', 3.5e9, 10.0, 1.5);"
        "assert 'sionna' in sys.modules; assert torch.equal(torch.get_rng_state(), before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("begun", "absent"),
    [("pass", "torch._dynamo"), ("import torch._dynamo", "torch._inductor.codecache")],
)
def test_importing_sionna_does_not_import_torchs_compiler(begun: str, absent: str) -> None:
    code = (
        f"{begun};"
        "import sys, torch, torch.compiler as c; before = torch.compile, c.disable;"
        "from airtune.wireless.tr38901 import sionna_models; sionna_models();"
        f"assert 'sionna.phy' in sys.modules; assert '{absent}' not in sys.modules;"
        "assert (torch.compile, c.disable) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sionnas_own_generator_is_given_back(scenarios: dict[str, Scenario]) -> None:
    from sionna.phy import config

    before = config.torch_rng("cpu").get_state()
    scenarios["umi"].impulse_response(_drop(3, False), 0.0, _seeds(3))
    scenarios["uma"].large_scale(np.array([[50.0, 0.0]]))
    assert torch.equal(config.torch_rng("cpu").get_state(), before)


def test_number_of_threads_changes_no_draw(scenarios: dict[str, Scenario]) -> None:
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 4):
            torch.set_num_threads(count)
            results.append(scenarios["umi"].impulse_response(_drop(20, True), 0.0, _seeds(20)))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
