"""Experiments from their keys to a finished run: reading, world, rounds, closing, resuming."""

from airtune.experiment.experiment import Experiment
from airtune.experiment.listening import Listener
from airtune.experiment.run import Run

__all__ = ["Experiment", "Listener", "Run"]
