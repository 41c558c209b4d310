"""A small public set of rows, on which activation-weighted importance looks at the model."""

from typing import Any

import numpy as np

from airtune.config import ExperimentConfig
from airtune.data.batches import Batch, make_batch
from airtune.data.encoding import encode
from airtune.data.sources import SourceOptions, load_task_data
from airtune.tuning.base_model import model_location

BATCH_ROWS = 16


def calibration_batches(config: ExperimentConfig) -> tuple[Batch, ...]:
    """`jcpba.calibration_rows` rows of `jcpba.calibration`, the same for clients and server.

    They are public: not from the clients' shards, unless the user names the same file.
    """
    section = config.jcpba
    tokenizer = _tokenizer(config.model)
    options = SourceOptions(train_limit=section.calibration_rows)
    task = load_task_data(section.calibration, None, options, config.seed)
    encoded = encode(tokenizer, task.train, config.data.max_tokens, task.separator)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    rows = np.arange(len(encoded))
    return tuple(
        make_batch(encoded, rows[start : start + BATCH_ROWS], pad or 0)
        for start in range(0, len(rows), BATCH_ROWS)
    )


def _tokenizer(model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_location(model))
