"""BibTeX of airtune and of what its methods rest on, from the references that they state.

A reference names authors and an arXiv number, and that is what an entry has: titles stand at the
address.
"""

import re
from collections.abc import Iterable

from airtune import __version__
from airtune.config.experiment import PART_KINDS, ExperimentConfig
from airtune.methods.registry import find_method, problem_specs, shipped_methods
from airtune.methods.spec import MethodSpec
from airtune.user_parts import name_and_options

_REFERENCE = re.compile(r"(?P<authors>.+), arXiv (?P<number>(?P<year>\d\d)\d\d\.\d{4,5})")
AIRTUNE = f"""\
@software{{airtune,
  author = {{{{The airtune developers}}}},
  title = {{airtune}},
  version = {{{__version__}}},
  year = {{2026}},
  url = {{https://github.com/airtune/airtune}}
}}"""


def references_of_run(config: ExperimentConfig) -> list[str]:
    """The references of a run's method, and of the parts that replace its own."""
    # Parts bring torch, which an entry of a method does not need.
    from airtune.methods.parts import known_parts

    found = list(find_method(config.method).references)
    known = known_parts()
    for kind in PART_KINDS:
        spec = getattr(config, kind)
        name = "" if spec is None else name_and_options(spec, kind)[0]
        if name in known[kind]:
            found += known[kind][name].references
        for method in shipped_methods().values():
            found += method.references if name in method.parts.get(kind, ()) else ()
    return list(dict.fromkeys(found))


def references_of(name: str) -> list[str]:
    """Those of a method, or of a planning problem by its name. Raises InputError for another."""
    planned = [spec for spec in shipped_methods().values() if _plans(spec, name)]
    spec = planned[0] if planned and name in problem_specs() else find_method(name)
    return list(spec.references)


def _plans(spec: MethodSpec, problem: str) -> bool:
    return spec.problem is not None and spec.problem.name == problem


def bibtex(references: Iterable[str]) -> str:
    """airtune's own entry, then one for each reference; one that is not of arXiv is a note."""
    return "\n\n".join([AIRTUNE, *map(_entry, references)])


def _entry(reference: str) -> str:
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return f"@misc{{{_key(reference)},\n  note = {{{reference}}}\n}}"
    authors = found["authors"].replace(" et al.", " and others")
    return (
        f"@misc{{{_key(found['authors'])}{found['number']},\n"
        f"  author = {{{authors}}},\n"
        f"  year = {{20{found['year']}}},\n"
        f"  eprint = {{{found['number']}}},\n"
        "  archivePrefix = {arXiv},\n"
        f"  url = {{https://arxiv.org/abs/{found['number']}}}\n"
        "}"
    )


def _key(text: str) -> str:
    """The first word in small letters."""
    return re.sub(r"[^a-z]", "", text.lower().split()[0]) or "reference"
