"""The section `hetlora` of an experiment."""

from pydantic import Field

from airtune.methods.options import DenseSection


class HetloraSection(DenseSection):
    rank_min: int = Field(
        2, ge=1, description="rank of the slowest device; the fastest gets adapter.rank"
    )
