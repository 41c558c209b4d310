"""The default cell has no transient: early rounds have the path loss of late ones."""

from pathlib import Path

import numpy as np
import pytest

from airtune.experiment.run import Run
from airtune.experiment.shards import deal_devices
from airtune.quantities import dbm_to_watts
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import open_channel
from airtune.wireless.mobility import RandomWaypoint
from airtune.wireless.state import NO_CLIENTS
from airtune.wireless.tr38901 import Scenario

WINDOWS = (range(1, 11), range(100, 111), range(290, 301))
CELL = CellSettings()


def _compare(windows: list[np.ndarray]) -> None:
    """Means within 0.5 dB of each other, each known to 0.15 dB; one value per independent unit."""
    for one in windows:
        assert one.std(ddof=1) / np.sqrt(len(one)) <= 0.15
    means = [one.mean() for one in windows]
    assert max(means) - min(means) <= 0.5


def test_expected_path_loss_is_that_of_late_rounds() -> None:
    """Path loss at the walk's places, averaged over the maps of sight; shadowing has mean 0."""
    step = CELL.speed_m_s * CELL.round_interval_s
    walk = RandomWaypoint(1, 6000, CELL.radius_m, CELL.min_distance_m, step)
    model = Scenario(
        CELL.path_loss, CELL.carrier_hz, CELL.base_station_height_m, CELL.client_height_m
    )
    means = []
    for rounds in WINDOWS:
        places = np.array([walk.position(index) for index in rounds[::3]])
        both = model.large_scale(places.reshape(-1, 2))
        sight = both.sight_probability
        expected = sight * both.path_loss_db[1] + (1 - sight) * both.path_loss_db[0]
        means.append(expected.reshape(places.shape[:2]).mean(axis=0))
    _compare(means)


def test_the_uniform_start_is_what_runs_of_the_first_format_met() -> None:
    """The rates that a run recorded before there was `walk_start` come back to the bit."""
    run = Run.open(Path(__file__).parents[1] / "experiment" / "runs" / "first_format")
    config = run.config
    assert config.cell.walk_start == "uniform"
    channel = open_channel(config.cell, config.clients.count, config.seed)
    power_w = dbm_to_watts(
        [min(device.tx_power_dbm, config.cell.tx_power_dbm) for device in deal_devices(config)]
    )
    for record in run.records:
        seen = channel.observe(record["round"] - 1).truth
        bandwidth = np.full(len(seen), np.nan)
        rate = np.full(len(seen), np.nan)
        for entry in record["clients"]:
            bandwidth[entry["client"]] = entry["bandwidth_hz"]
            rate[entry["client"]] = entry["rate_bps"]
        assert np.array_equal(seen.uplink(power_w).rate(bandwidth), rate)


def test_a_uniform_start_drifts_inward() -> None:
    """What the stationary start is there to avoid."""
    walk = RandomWaypoint(1, 6000, 200.0, 10.0, 8.3, stationary=False)
    first, later = (np.hypot(*walk.position(index).T).mean() for index in (0, 20))
    assert first == pytest.approx(133.7, rel=0.02)
    assert later < 0.8 * first


@pytest.mark.slow
def test_default_cell_as_it_is_drawn() -> None:
    """Whole channels of 8 clients. 400 seeds know a window's mean to 0.21 dB only: here 1,000."""
    seeds = 1000
    loss = np.empty((len(WINDOWS), seeds))
    for seed in range(seeds):
        channel = open_channel(CELL, 8, seed)
        for window, rounds in enumerate(WINDOWS):
            states = [channel.observe(index, NO_CLIENTS).truth for index in rounds]
            loss[window, seed] = np.mean([s.path_loss_db + s.shadowing_db for s in states])
    _compare(list(loss))
