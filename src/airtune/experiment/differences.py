"""What to say, and when to refuse, where a run no longer rests on what it remembers."""

from collections.abc import Sequence
from pathlib import Path

from airtune.errors import AirtuneError
from airtune.experiment.digests import MODEL_CONFIG, TEST, TOKENIZER, WEIGHTS, fingerprint
from airtune.experiment.world import World
from airtune.federated.records.fingerprint import (
    Difference,
    Fingerprint,
    differing_contents,
    differing_keys,
)

ACCEPT = "--accept-changes"
_NAMED = 5
_READERS_NEED = (WEIGHTS, MODEL_CONFIG, TOKENIZER, TEST)


def refusal(folder: Path, found: Sequence[Difference]) -> AirtuneError:
    """The sentence that names what is not as it was."""
    named = "; ".join(str(change) for change in found[:_NAMED])
    rest = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return AirtuneError(
        f"{folder} does not rest on what its checkpoint remembers: {named}{rest}. Restore that, or "
        f"give {ACCEPT} to go on with what is there now."
    )


def refuse_other_model(folder: Path, known: Fingerprint | None, world: World) -> None:
    """For readers of a run: refuse another model, tokenizer, test set, or shape of the adapter."""
    if known is None:
        return
    now = fingerprint(world)
    found = [
        change for change in differing_contents(known, now) if change.name in _READERS_NEED
    ] + [
        change
        for change in differing_keys(known.keys, now.keys)
        if change.name == "dtype" or change.name.startswith("adapter.")
    ]
    if found:
        raise refusal(folder, found)
