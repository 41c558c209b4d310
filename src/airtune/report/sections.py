"""Pages in sections: a section is a title and what makes its panels, registered once.

A maker answers a panel, a sentence in place of one in which nothing would vary, several of both,
or None.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from airtune.report import html
from airtune.report.style import Panel

View = TypeVar("View")
Made = Panel | str
Answer = Made | Iterable[Made] | None


@dataclass(frozen=True)
class Section(Generic[View]):
    """A part of a page; one without panels and sentences is left out."""

    title: str
    makers: tuple[Callable[[View], Answer], ...]

    def made(self, view: View) -> list[Made]:
        """Every panel and sentence, in order."""
        return [part for maker in self.makers for part in _listed(maker(view))]


def _listed(answer: Answer) -> list[Made]:
    if answer is None:
        return []
    return [answer] if isinstance(answer, Panel | str) else list(answer)


def panels_of(sections: Sequence[Section[View]], view: View) -> dict[str, list[Panel]]:
    """Every figure of a page, by section."""
    return {
        section.title: [part for part in section.made(view) if isinstance(part, Panel)]
        for section in sections
    }


def drawn(sections: Sequence[Section[View]], view: View) -> str:
    """The sections as HTML: the sentences of each above its grid of figures."""
    return "".join(
        _section(section.title, section.made(view), f"figure-{index}")
        for index, section in enumerate(sections)
    )


def _section(title: str, made: Sequence[Made], prefix: str) -> str:
    told = [part for part in made if isinstance(part, str)]
    grid = html.grid([part for part in made if isinstance(part, Panel)], prefix)
    return html.section(title, (html.sentences(told) if told else "") + grid)
