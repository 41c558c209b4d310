"""TensorBoard's own reader finds what rounds.jsonl holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune import Experiment
from tests.trackers.runs import expected, tracked_run

pytest.importorskip("tensorboard", reason="airtune[tensorboard] is not installed")


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def scalars(events: Any) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for entry in events.Scalars(name):
            assert name not in found.setdefault(entry.step, {}), "a step is there once"
            found[entry.step][name] = entry.value
    return found


def holds(events: Any, folder: Path) -> bool:
    """Whether every expected number is there, in single precision, and no other round."""
    there, wanted = scalars(events), expected(folder)
    return there.keys() == wanted.keys() and all(
        there[step][name] == float(np.float32(value))
        for step, numbers in wanted.items()
        for name, value in numbers.items()
    )


def test_rounds_of_a_run_that_goes_on_are_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tracked_run(folder, "tensorboard")
    assert holds(read(folder), folder)
    text = read(folder).Tensors("experiment/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "cell.bandwidth_hz: 3000000.0\n" in text
    note = read(folder).Tensors("result/adapter/text_summary")[0].tensor_proto.string_val
    assert note == [str(folder / "adapter").encode()]
    # As if it had been killed after the record of round 2: that round is made again.
    (folder / "checkpoints" / "round-00002.safetensors").unlink()
    Experiment.resume(folder, rounds=3)
    assert len(expected(folder)) == 3
    assert holds(read(folder), folder)
