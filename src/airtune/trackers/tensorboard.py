"""TensorBoard: event files in `RUN/tensorboard`, written by torch's SummaryWriter."""

from collections.abc import Mapping
from typing import Any

from airtune.section import Section
from airtune.trackers.tracker import Outcome, TrackedRun, Tracker

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """A session of the run is one event file; TensorBoard shows the files as one run."""

    def __init__(self, options: Section) -> None:
        self._writer: Any = None
        self._step = 0

    def begin(self, run: TrackedRun) -> str:
        """Open an event file; steps that are made again replace those of the files before."""
        from torch.utils.tensorboard import SummaryWriter

        again = None if run.id is None else run.rounds_done + 1
        self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=again)
        self._step = run.rounds_done
        rows = "\n".join(f"    {key}: {value}" for key, value in run.experiment.items())
        self._writer.add_text("experiment", rows, self._step)
        return FOLDER

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Scalars in single precision, as TensorBoard keeps them."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        self._step = step

    def end(self, outcome: Outcome, note: Mapping[str, str]) -> None:
        """The note as a text, and the end of the file."""
        for name, text in {"outcome": outcome, **note}.items():
            self._writer.add_text(f"result/{name}", text, self._step)
        self._writer.close()
