"""A finished (or unfinished) run: its folder read back."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from airtune.config import ExperimentConfig, check
from airtune.errors import InputError
from airtune.experiment.answers import continue_prompt, most_tokens, samples, score
from airtune.experiment.trained import write_trained
from airtune.experiment.world import World, build_world
from airtune.federated.checkpoint import ServerState, newest_checkpoint
from airtune.federated.record import RunFolder
from airtune.files import filled_whole, read_text, read_yaml_mapping, refuse_half_characters


class Run:
    """The folder of a run. Cheap to open; the model is loaded when something needs it."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = RunFolder(Path(folder))

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """Open a run folder; InputError if it is none."""
        run = cls(Path(folder))
        if not run.folder.experiment.is_file():
            raise InputError(
                "RUN_DIR", str(folder), "the folder of a run", "it has no experiment.yaml"
            )
        return run

    @cached_property
    def config(self) -> ExperimentConfig:
        """The resolved experiment."""
        keys = read_yaml_mapping(self.folder.experiment, "RUN_DIR")
        if isinstance(keys.get("cell"), dict):
            # Before there was this key, walking clients started uniform in area.
            keys["cell"] = {"walk_start": "uniform", **keys["cell"]}
        # A run from before there was this key was made on the processor, and goes on there.
        return check(ExperimentConfig, {"device": "cpu", **keys})

    @property
    def records(self) -> list[dict[str, Any]]:
        """Every round, as in `rounds.jsonl`."""
        return self.folder.read_records()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The closing summary; InputError if the run has not ended."""
        path = self.folder.path / "summary.json"
        if not path.is_file():
            raise InputError(
                "RUN_DIR", str(self.folder.path), "the folder of a finished run", "resume it first"
            )
        return dict(json.loads(read_text(path, "RUN_DIR")))

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
            {"round": record["round"], **entry}
            for record in self.records
            for entry in record["clients"]
        )

    @cached_property
    def state(self) -> ServerState:
        """The newest whole checkpoint."""
        checkpoint, _ = newest_checkpoint(self.folder.checkpoints, self.folder.records_length())
        return checkpoint.state

    @cached_property
    def world(self) -> World:
        """The experiment, loaded again."""
        return build_world(self.config, resolved=True)

    def evaluate(self) -> dict[str, Any]:
        """Test loss, perplexity and scores of the base and of the tuned model."""
        result: dict[str, Any] = {}
        for name, adapter in (("base", self.world.untrained), ("tuned", self.state.adapter)):
            evaluation = self.world.evaluate(adapter)
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
            return samples(self.world, self.state.adapter, count, max_new_tokens)
        refuse_half_characters(prompt, "--prompt")
        if not prompt.strip():
            raise InputError("--prompt", prompt, "some text")
        return [continue_prompt(self.world, self.state.adapter, prompt, max_new_tokens)]

    def export(self, folder: Path | str, *, merge: bool = False) -> None:
        """Write the adapter, or the base model with the adapter merged into its weights.

        Of full tuning, either way, the tuned model.
        """
        world = self.world
        with filled_whole("DIR", Path(folder)) as place:
            write_trained(
                self.config, world.base, world.model, self.state.adapter, place, merge=merge
            )
