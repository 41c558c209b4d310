"""Options of the shipped trackers, beside `use` in `report_to`."""

from pydantic import Field

from airtune.section import Section


class TensorBoardOptions(Section):
    """TensorBoard has no options: its files are in the run folder."""


class WandbOptions(Section):
    project: str = Field("airtune", min_length=1, description="project of Weights & Biases")
    entity: str | None = Field(None, description="user or team; null: that of the login")


class MlflowOptions(Section):
    experiment: str = Field("airtune", min_length=1, description="experiment of MLflow")
