"""fedsllm, described: a planning problem alone."""

from airtune.methods.spec import Lazy, MethodSpec, ProblemSpec

FEDSLLM = MethodSpec(
    name="fedsllm",
    title="local accuracy and bandwidth of split training",
    references=("Zhao et al., arXiv 2407.09250",),
    problem=ProblemSpec(
        "fedsllm",
        "airtune.methods.fedsllm.problem",
        Lazy("airtune.methods.fedsllm.from_cell:explicit"),
        Lazy("airtune.methods.fedsllm.problem:FedsllmCell"),
    ),
)
