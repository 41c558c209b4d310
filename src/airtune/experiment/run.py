"""A finished (or unfinished) run: its folder read back, and what its model writes.

Answers to test prompts are scored as the task scores them.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from airtune import part_folders
from airtune.config.experiment import ExperimentConfig
from airtune.config.text import read_resolved
from airtune.data.encoding import encode, refuse_unknown_ids
from airtune.data.instructions import asked
from airtune.data.tasks import Example, mean_score
from airtune.errors import AirtuneError, InputError
from airtune.experiment.card import Progress, model_card
from airtune.experiment.digests import refuse_other_model
from airtune.experiment.environment import Sessions
from airtune.experiment.reading import check_filled, checked
from airtune.experiment.trained import CARD, write_trained
from airtune.experiment.world import World, build_world
from airtune.federated.records.checkpoint import (
    Checkpoint,
    ServerState,
    list_checkpoints,
    newest_checkpoint,
    read_mark,
)
from airtune.federated.records.record import RoundRecord
from airtune.federated.records.run_folder import RunFolder
from airtune.files import (
    filled_whole,
    read_text,
    refuse_half_characters,
    write_text_atomic,
)
from airtune.report.snippet import run_html
from airtune.tuning.base_change import load_whole
from airtune.tuning.evaluate import generate
from airtune.workload.architecture import Decoder

LONGEST_ANSWER = 192
ANSWER_ROWS = 32
"""Prompts continued at once; more would only hold memory."""


def write_answers(
    world: World, adapter: Mapping[str, Tensor], rows: Sequence[int], max_new_tokens: int
) -> list[str]:
    """Greedy continuations of test prompts."""
    load_whole(world.model, adapter)
    test = world.tests.encoded
    prompts = [test.prompt(row).tolist() for row in rows]
    answers: list[str] = []
    for start in range(0, len(prompts), ANSWER_ROWS):
        part = prompts[start : start + ANSWER_ROWS]
        answers += _continued(world, part, max_new_tokens)
    return answers


def most_tokens(architecture: Decoder) -> int | None:
    """Tokens of prompt and continuation together where positions are learned; else no limit."""
    return architecture.max_tokens if architecture.position_rows else None


def _continued(world: World, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    limit = most_tokens(world.architecture)
    return generate(
        world.model, world.base.tokenizer, prompts, max_new_tokens, world.tests.stops, limit
    )


def score(world: World, adapter: Mapping[str, Tensor]) -> tuple[dict[str, float], int]:
    """The task's own score on the first `data.score_rows` test rows, and how many those are."""
    judge, test = world.tests.task.score, world.tests.encoded
    rows = list(range(min(world.config.data.score_rows, len(test))))
    if judge is None or not rows:
        return {}, 0
    longest = int(test.label_tokens[rows].max())
    answers = write_answers(world, adapter, rows, min(longest + 8, LONGEST_ANSWER))
    return {judge.name: mean_score(judge, [_example(world, row) for row in rows], answers)}, len(
        rows
    )


def _example(world: World, row: int) -> Example:
    return world.tests.task.test[int(world.tests.encoded.example[row])]


def samples(
    world: World, adapter: Mapping[str, Tensor], count: int, max_new_tokens: int
) -> list[dict[str, str]]:
    """Test prompts with what the base and the tuned model write, and the reference."""
    rows = list(range(min(count, len(world.tests.encoded))))
    before = write_answers(world, world.untrained, rows, max_new_tokens)
    after = write_answers(world, adapter, rows, max_new_tokens)
    return [
        {
            "prompt": _example(world, row).prompt,
            "before": old,
            "after": new,
            "reference": _example(world, row).completion,
        }
        for row, old, new in zip(rows, before, after, strict=True)
    ]


def continue_prompt(
    world: World, adapter: Mapping[str, Tensor], prompt: str, max_new_tokens: int
) -> dict[str, str]:
    """A user's own prompt, in the form that the model was trained on, continued by both."""
    tokenizer: Any = world.base.tokenizer
    tests, limit = world.tests, world.config.data.max_tokens
    example = asked(tests.task.format_name, prompt)
    row = encode(tokenizer, [example], limit, tests.task.separator, tests.inputs)
    refuse_unknown_ids(tokenizer, row.token_ids, world.base.embeddings)
    ids = row.prompt(0).tolist()
    answers = {"prompt": prompt}
    for name, state in (("base", world.untrained), ("tuned", adapter)):
        load_whole(world.model, state)
        answers[name] = _continued(world, [ids], max_new_tokens)[0]
    return answers


class Run:
    """The folder of a run. Cheap to open; the model is loaded when something needs it."""

    def __init__(self, folder: Path | str, *, accept_changes: bool = False) -> None:
        self.folder = RunFolder(Path(folder))
        self._accept_changes = accept_changes

    @classmethod
    def open(cls, folder: Path | str, *, accept_changes: bool = False) -> "Run":
        """Open a run folder; InputError if it is none.

        With `accept_changes` it is read although its model or test set are others now.
        """
        run = cls(Path(folder), accept_changes=accept_changes)
        if not run.folder.experiment.is_file():
            remedy = (
                "it has no experiment.yaml"
                if run.folder.path.is_dir()
                else (
                    "an experiment file is for `airtune run`"
                    if run.folder.path.is_file()
                    else "check the path"
                )
            )
            raise InputError("RUN_DIR", str(folder), "the folder of a run", remedy)
        return run

    @cached_property
    def values(self) -> dict[str, Any]:
        """The resolved experiment as its file has it, `${NAME}` included."""
        return read_resolved(self.folder.experiment)[0]

    @cached_property
    def config(self) -> ExperimentConfig:
        """The resolved experiment. InputError names variables of the environment that it needs."""
        values, found = read_resolved(self.folder.experiment)
        # Before format 2 what came from the environment was written in clear.
        return checked(values) if found == 1 else check_filled(values)

    @property
    def records(self) -> list[RoundRecord]:
        """Every round, as in `rounds.jsonl`. Raises AirtuneError for a damaged file."""
        records = self.folder.read_records()
        for path in list_checkpoints(self.folder.checkpoints):
            mark = read_mark(path)
            if mark is not None and mark.length <= self.folder.records_length():
                if not mark.holds(self.folder.records):
                    raise AirtuneError(
                        f"{self.folder.records} is damaged (it is not what {path.name} counts on): "
                        "restore it from a copy, or run the experiment again in a new folder."
                    )
                break
        return records

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The closing summary; InputError if the run has not ended."""
        path = self.folder.path / "summary.json"
        if not path.is_file():
            raise InputError(
                "RUN_DIR", str(self.folder.path), "the folder of a finished run", "resume it first"
            )
        try:
            return dict(json.loads(read_text(path, "RUN_DIR")))
        except (ValueError, TypeError):
            raise AirtuneError(
                f"{path} is damaged: `airtune resume` makes it again from the rounds."
            ) from None

    @property
    def notices(self) -> list[str]:
        """Notices for a reader: rows dropped or cut, changes during the run, and what was reported
        whenever the run began or went on."""
        said = self.summary.get("notices", [])
        return list(dict.fromkeys([*said, *Sessions.read(self.folder.path).notices()]))

    def to_frame(self, clients: bool = False) -> Any:
        """A pandas DataFrame: a row a round or, with `clients`, a row per round and client."""
        import pandas

        if not clients:
            rounds = [
                {key: value for key, value in record.items() if key not in ("clients", "skipped")}
                for record in self.records
            ]
            return pandas.DataFrame(rounds)
        return pandas.DataFrame(
            {"round": record.round, **entry} for record in self.records for entry in record.clients
        )

    def _repr_html_(self) -> str:
        ended = (self.folder.path / "summary.json").is_file()
        summary = {**self.summary, "notices": self.notices} if ended else {}
        return run_html(str(self.folder.path), self.config.method, self.records, summary)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The newest whole checkpoint; what clients carry is not verified."""
        return newest_checkpoint(
            self.folder.checkpoints, self.folder.records_length(), verify_carried=False
        )[0]

    @property
    def state(self) -> ServerState:
        """The state of the newest whole checkpoint."""
        return self.checkpoint.state

    @cached_property
    def world(self) -> World:
        """The experiment, loaded again. Raises AirtuneError where its model or test set is another
        now, unless that was accepted as the run was opened."""
        known = self.checkpoint.fingerprint
        part_folders.of_run(self.folder.path, Sessions.read(self.folder.path).parts)
        world = build_world(self.config, resolved=True)
        if not self._accept_changes:
            refuse_other_model(self.folder.path, known, world)
        return world

    def evaluate(self) -> dict[str, Any]:
        """Test loss, perplexity and scores of the base and of the tuned model."""
        result: dict[str, Any] = {}
        world, state = self.world, self.state
        for name, adapter in (("base", world.untrained), ("tuned", world.tuned(state))):
            tuned = name == "tuned"
            evaluation = world.evaluate_state(state) if tuned else world.evaluate(adapter)
            marks, judged = score(self.world, adapter)
            result[name] = {
                "test_loss": evaluation.loss,
                "perplexity": evaluation.perplexity,
                "label_tokens": evaluation.label_tokens,
                "scores": marks,
                "scored_rows": judged,
            }
        return result

    def generate(
        self, prompt: str | None = None, count: int = 3, max_new_tokens: int = 96
    ) -> list[dict[str, str]]:
        """Continuations by the base and by the tuned model, of a prompt or of test prompts.

        A model with learned positions stops at the last one. Raises InputError for more new tokens
        than it has positions.
        """
        limit = most_tokens(self.world.architecture)
        if limit is not None and max_new_tokens >= limit:
            raise InputError(
                "--max-new-tokens", max_new_tokens, f"below {limit}, the model's last position"
            )
        if prompt is None:
            return samples(self.world, self.world.tuned(self.state), count, max_new_tokens)
        refuse_half_characters(prompt, "--prompt")
        if not prompt.strip():
            raise InputError("--prompt", prompt, "some text")
        adapter = self.world.tuned(self.state)
        return [continue_prompt(self.world, adapter, prompt, max_new_tokens)]

    def export(self, folder: Path | str, *, merge: bool = False) -> None:
        """Write the adapter, or the base model with the adapter merged into its weights.

        Of full tuning, either way, the tuned model.
        """
        world, deployed = self.world, self.folder.deployment.exists()
        progress = Progress(self.state.start_loss, self.records, deployed)
        card = model_card(world, progress, merge=merge)
        with filled_whole("DIR", Path(folder)) as place:
            write_trained(
                self.config, world.base, world.model, world.tuned(self.state), place, merge=merge
            )
            write_text_atomic(place / CARD, card)
