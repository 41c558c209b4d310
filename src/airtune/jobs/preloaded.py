"""Everything that a run imports, imported: a host of runs does it once for all of them.

Nothing is computed here that two runs could share by mistake; what is imported does not depend on
a run. It costs memory that a run might not need, which its forks share.
"""

from contextlib import suppress

import torch
import transformers.modeling_utils
import transformers.models.llama.modeling_llama

import airtune.jobs.running
import airtune.tuning.plain_peft
from airtune.errors import AirtuneError
from airtune.report.html import script
from airtune.wireless.tr38901 import sionna_models

__all__ = ["airtune", "torch", "transformers"]

# A run that needs an older Sionna says so itself.
with suppress(AirtuneError):
    sionna_models()
script()
