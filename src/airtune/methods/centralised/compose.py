"""centralised: LoRA without a federation, the loss that a federated method is measured against.

One device of the cell holds all data and takes, one after another, as many steps a round as the
whole cohort would have taken together; its optimiser is never reset. Time, energy and bytes are
those of this device computing and exchanging its adapter once a round: no claim about
a data centre, and the bytes of collecting the data are left out.
"""

from airtune.federated.method import Method
from airtune.methods.fedlora.compose import BandwidthPlanner
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec
from airtune.update.means import FactorMean


def centralised() -> Method:
    """The composition, for the one client that `experiment` makes of all."""
    return Method(
        "centralised",
        BandwidthPlanner(),
        FullTuner(),
        DenseCodec(),
        FactorMean(),
        DenseCodec(),
    )
