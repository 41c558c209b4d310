"""The section `fedlora` of an experiment."""

from airtune.methods.options import DenseSection


class FedloraSection(DenseSection):
    pass
