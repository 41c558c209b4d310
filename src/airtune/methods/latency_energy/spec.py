"""latency_energy, described: a planning problem alone; runs have it as their section `energy`."""

from airtune.methods.spec import Lazy, MethodSpec, ProblemSpec

LATENCY_ENERGY = MethodSpec(
    name="latency_energy",
    title="computing speed, transmit power and bandwidth, latency weighed against energy",
    references=("Gao et al., arXiv 2211.00481",),
    problem=ProblemSpec(
        "latency_energy",
        "airtune.methods.latency_energy.problem",
        Lazy("airtune.methods.latency_energy.from_cell:explicit"),
        Lazy("airtune.methods.latency_energy.problem:EnergyCell"),
    ),
)
