"""The section `fedex_lora` of an experiment."""

from airtune.methods.options import DenseSection


class FedexLoraSection(DenseSection):
    pass
