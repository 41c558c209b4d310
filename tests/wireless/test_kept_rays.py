"""Channels that share places and rays are those that are drawn alone."""

from typing import Any

import numpy as np

from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import open_channel


def test_another_band_on_kept_rays() -> None:
    kept: dict[Any, Any] = {}
    sizes = []
    for band in (3e6, 20e6):
        cell = CellSettings(bandwidth_hz=band)
        shared, alone = open_channel(cell, 5, 1, kept), open_channel(cell, 5, 1)
        for index in range(3):
            found = shared.observe(index).truth.gain
            np.testing.assert_array_equal(found, alone.observe(index).truth.gain)
        sizes.append(len(kept))
    assert sizes[0] == sizes[1] > 0  # the second band drew nothing
