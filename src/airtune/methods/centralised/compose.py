"""centralised: LoRA without a federation, the loss that a federated method is measured against.

One device of the cell holds all data and takes, one after another, as many steps a round as the
whole cohort would have taken together; its optimiser is never reset. Time, energy and bytes are
those of this device computing and exchanging its adapter once a round: no claim about
a data centre, and the bytes of collecting the data are left out.
"""

from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.options import NoOptions
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec
from airtune.update.means import FactorMean


def compose(bench: Bench, options: NoOptions) -> Method:
    """The composition, for the one client that holds all data (`pooled`)."""
    return Method(
        "centralised",
        BandwidthPlanner(),
        FullTuner(),
        DenseCodec(),
        FactorMean(),
        DenseCodec(),
    )
