"""A small public set of rows, on which activation-weighted importance looks at the model."""

import numpy as np

from airtune.config.data import template_inputs
from airtune.config.experiment import ExperimentConfig
from airtune.data.batches import Batch, make_batch
from airtune.data.encoding import encode, pad_token, refuse_unknown_ids
from airtune.data.sources import SourceOptions, load_task_data
from airtune.methods.jcpba.options import JcpbaSection
from airtune.tuning.base_model import load_tokenizer
from airtune.workload.architecture import load_architecture

BATCH_ROWS = 16


def calibration_batches(config: ExperimentConfig) -> tuple[Batch, ...]:
    """`jcpba.calibration_rows` rows of `jcpba.calibration`, the same for clients and server.

    They are public: not from the clients' shards, unless the user names the same file.
    """
    section = config.section(JcpbaSection)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    options = SourceOptions(train_limit=section.calibration_rows)
    task = load_task_data(section.calibration, None, options, config.seed)
    inputs = template_inputs(config.data)
    encoded = encode(tokenizer, task.train, config.data.max_tokens, task.separator, inputs)
    embeddings = load_architecture(config.model).vocab_size
    refuse_unknown_ids(tokenizer, encoded.token_ids, embeddings)
    rows = np.arange(len(encoded))
    return tuple(
        make_batch(encoded, rows[start : start + BATCH_ROWS], pad_token(tokenizer))
        for start in range(0, len(rows), BATCH_ROWS)
    )
