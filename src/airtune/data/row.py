"""One row of a source, and what is wrong with one."""

from collections.abc import Mapping

Row = Mapping[str, str]
"""Column name to text."""


class RowError(Exception):
    """A row that cannot become an example: (column, value, what is allowed)."""

    def __init__(self, column: str, value: str, allowed: str) -> None:
        super().__init__(column, value, allowed)
        self.column, self.value, self.allowed = column, value, allowed
