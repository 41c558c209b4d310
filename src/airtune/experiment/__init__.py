"""Experiments from their keys to a finished run: reading, world, rounds, closing, resuming."""

from airtune.experiment.experiment import Experiment, Listener
from airtune.experiment.run import Run

__all__ = ["Experiment", "Listener", "Run"]
