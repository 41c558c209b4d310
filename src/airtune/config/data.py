"""The section `data` of an experiment."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from airtune.data.template import TemplateInputs
from airtune.section import Section, Words, refused

MOST_ROWS = 10_000_000
"""Rows that a limit may ask for: the built-in tasks make any number."""


class PartitionSection(Section):
    kind: Literal["iid", "dirichlet", "column", "size"] = Field(
        "iid", description="iid | dirichlet (by label) | column (natural) | size (unequal shards)"
    )
    concentration: float = Field(0.5, gt=0, description="Dirichlet concentration; small is skewed")
    column: str | None = Field(None, description="the column of kind: column")
    min_rows: int = Field(
        1, ge=1, description="rows that every client holds at least; dirichlet draws again for it"
    )


def _day(value: object) -> object:
    """A day as text: YAML reads 2026-01-31 as a date."""
    try:
        return None if value is None else date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise refused("", str(value), "a day such as 2026-01-31") from None


class DataSection(Section):
    train: str = Field("builtin", description="builtin[:slots|:arithmetic], a file, or a hub name")
    test: str | None = Field(None, description="the test set; null: held out from train")
    format: str | None = Field(
        None,
        description="gsm8k | e2e | yahoo | yahoo_topics | alpaca | dolly | text | table | chat; "
        "null: detected",
    )
    delimiter: Annotated[str | None, Words("one character, such as ';', that is no quote")] = Field(
        None,
        pattern=r'^[^"\r\n\x00]$',
        description="between the cells of csv and tsv files; null: a comma, of .tsv a tab",
    )
    prompt_column: str | None = Field(None, description="column of the prompt (format: table)")
    completion_column: str | None = Field(None, description="column of the completion")
    max_tokens: int = Field(256, ge=8, description="prompt and completion are cut to this length")
    train_limit: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="use only so many training rows"
    )
    test_limit: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="evaluate on only so many test rows"
    )
    score_rows: int = Field(
        32, ge=0, description="test prompts answered and scored at the end; 0: none"
    )
    chat_template: str | None = Field(
        None, description="a Jinja file, or one of the tokenizer's templates; null: its default"
    )
    system: str | None = Field(
        None, description="a system turn before each conversation that has none (chat templates)"
    )
    tools: list[dict[str, Any]] | None = Field(
        None, description="JSON schemas of tools that the chat template shows"
    )
    template_inputs: dict[str, Any] = Field(
        {}, description="other variables of the chat template, such as enable_thinking: false"
    )
    date: Annotated[str | None, BeforeValidator(_day)] = Field(
        None, description="the day a chat template shows; null: the day of the start, then kept"
    )
    partition: PartitionSection = Field(
        default_factory=PartitionSection, description="who holds what"
    )


def template_inputs(data: DataSection) -> TemplateInputs:
    """What a chat template may read beside the turns, as an experiment gives it."""
    return TemplateInputs(
        data.chat_template, data.system, data.tools or (), data.template_inputs, data.date
    )
