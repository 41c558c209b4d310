"""nibble, described: what airtune reads of the method before it runs."""

from airtune.methods.spec import Lazy, MethodSpec
from airtune_nibble.options import NibbleSection

NIBBLE = MethodSpec(
    name="nibble",
    title="updates of 4 or 8 bits a number, the band divided for equal airtime",
    references=("McMahan et al., arXiv 1602.05629",),
    options=NibbleSection,
    # The composition imports torch, so it is named by its place and imported when a run begins.
    compose=Lazy("airtune_nibble.compose:compose"),
    # Options that belong to one part: refused where an experiment replaces that part.
    part_options={"codec": ("bits",)},
    # Nothing here works on LoRA's factors, so that full tuning is allowed as well.
    needs_factors=False,
)
