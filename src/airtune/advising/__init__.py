"""Advice on an experiment without training: feasible methods, their cost, and what would help."""

from airtune.advising.adviser import advise
from airtune.advising.answer import Advice

__all__ = ["Advice", "advise"]
