"""energy, described: a planning problem alone; runs have it as their section `energy`."""

from airtune.methods.spec import Lazy, MethodSpec, ProblemSpec

ENERGY = MethodSpec(
    name="energy",
    title="computing speed, transmit power and bandwidth, latency weighed against energy",
    references=("Gao et al., arXiv 2211.00481",),
    problem=ProblemSpec(
        "energy",
        "airtune.methods.energy.problem",
        Lazy("airtune.methods.energy.from_cell:explicit"),
        Lazy("airtune.methods.energy.problem:EnergyCell"),
    ),
)
