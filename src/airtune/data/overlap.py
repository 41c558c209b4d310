"""Whether a model is tested on what it was trained on."""

import filecmp

from airtune.data.sources import TaskData, part_file
from airtune.errors import InputError

_REMEDY = "leave it out, and a tenth of the prompts is held out, or name another file"


def refuse_training_rows(train: str, test: str | None, task: TaskData) -> None:
    """InputError where `data.test` names the training rows.

    By its path, by a link, by a file of the same bytes, or by rows all of which are trained on.
    """
    if test is None:
        return
    ours, theirs = part_file(train, "train"), part_file(test, "test")
    if ours is not None and theirs is not None:
        same = ours.samefile(theirs)
        if same or filecmp.cmp(ours, theirs, shallow=False):
            how = "the same file as data.train" if same else "a copy of data.train"
            raise InputError("data.test", f"{test} ({how})", "other rows", _REMEDY)
    if _trained_on(task) == len(task.test):
        problem = f"{test} (all {len(task.test)} rows are training rows)"
        raise InputError("data.test", problem, "other rows", _REMEDY)


def overlap_notice(task: TaskData) -> str:
    """What share of the test rows is trained on, as a sentence; empty where none is."""
    count = _trained_on(task)
    return f"{count} of {len(task.test)} test rows are training rows, too." if count else ""


def _trained_on(task: TaskData) -> int:
    trained = {(example.prompt, example.completion) for example in task.train}
    return sum((example.prompt, example.completion) in trained for example in task.test)
