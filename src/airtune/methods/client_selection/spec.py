"""client_selection, described: a planning problem alone."""

from airtune.methods.spec import Lazy, MethodSpec, ProblemSpec

CLIENT_SELECTION = MethodSpec(
    name="client_selection",
    title="who takes part: most weight within a deadline, or the least deadline for a weight",
    references=("FedCS, arXiv 1804.08333",),
    problem=ProblemSpec(
        "client_selection",
        "airtune.methods.client_selection.problem",
        Lazy("airtune.methods.client_selection.from_cell:explicit"),
        Lazy("airtune.methods.client_selection.problem:SelectionCell"),
    ),
)
