"""What every section of the experiment file has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys are closed: a mistyped key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
