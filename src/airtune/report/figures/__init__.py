"""Figures and tables for a paper, from the folders of runs and comparisons.

    from airtune.report.figures.write import write_figures, write_tables

A figure is first a drawing (`drawing.py`): the numbers that are drawn, with their units. What
is drawn and the csv beside it are both made from that.
"""
