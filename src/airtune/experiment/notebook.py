"""Progress in a notebook: one table that grows in place while a run goes on."""

import sys
from html import escape
from typing import Any

from airtune.federated.records.record import RoundRecord
from airtune.quantities import format_duration

ROWS_SHOWN = 8


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython is not imported for it."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def with_progress(listener: Any, wanted: bool | None) -> Any:
    """The listeners, with a table of progress where it is wanted (None: in a notebook)."""
    if not (in_notebook() if wanted is None else wanted):
        return listener
    others = listener if isinstance(listener, list | tuple) else [listener]
    return [NotebookProgress(), *(other for other in others if other is not None)]


class NotebookProgress:
    """A listener that shows the newest rounds, and every notice, below the cell that runs."""

    def __init__(self) -> None:
        self._rounds = 0
        self._names: tuple[str, ...] = ()
        self._notices: list[str] = []
        self._records: list[RoundRecord] = []
        self._handle: Any = None

    def notice(self, sentence: str) -> None:
        self._notices.append(sentence)
        if self._handle is not None:
            self._show()

    def started(self, rounds_done: int, rounds: int, names: tuple[str, ...]) -> None:
        self._rounds, self._names = rounds, names
        self._show()

    def round_done(self, record: RoundRecord) -> None:
        self._records = [*self._records, record][-ROWS_SHOWN:]
        self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        page = HTML(self.html())
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)

    def html(self) -> str:
        """What is shown now."""
        done = self._records[-1].round if self._records else 0
        bar = f'<progress max="{self._rounds or 1}" value="{done}"></progress>'
        head = "".join(
            f"<th>{name}</th>"
            for name in ("round", "virtual time", "latency", "train loss [nat]", "test loss [nat]")
        )
        rows = "".join(self._row(record) for record in self._records)
        notes = "".join(f"<li>{escape(sentence)}</li>" for sentence in self._notices)
        return (
            f"<div>{bar} round {done} of {self._rounds}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
        )

    def _row(self, record: RoundRecord) -> str:
        train = "–" if record.train_loss is None else f"{record.train_loss:.4f}"
        cells = (
            str(record.round),
            format_duration(record.virtual_time_s),
            format_duration(record.latency_s),
            train,
            f"{record.test_loss:.4f}",
        )
        return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
