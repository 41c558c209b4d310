"""Experiments and runs: what the command line and the Python API are made of."""

from airtune.experiment.experiment import Experiment, Listener
from airtune.experiment.run import Run

__all__ = ["Experiment", "Listener", "Run"]
