"""Counted operations, sizes and memory of the workload model against torch's own.

Small random models of every family for ranks 1, 8 and 64, and every bundled published model at full
size on torch's meta device. Writes JSON, and the tables of docs/workload.md between its markers.

    python benchmarks/flops_table.py [--out benchmarks/results/flops_table.json]
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

DOCUMENT = ROOT / "docs" / "workload.md"
RANKS = (1, 8, 64)


def small_rows() -> list[dict[str, Any]]:
    """Every family at every rank: 3 sequences of 20 tokens."""
    from airtune.workload.adapter_shape import AdapterShape
    from airtune.workload.families import FAMILIES
    from airtune.workload.step import Step
    from airtune.workload.transformer import workload
    from tests.workload.small_models import architecture, measured_flops

    rows = []
    for family in FAMILIES:
        for rank in RANKS:
            adapter, step = AdapterShape(rank), Step(3, 20)
            counted = workload(architecture(family), adapter, step)
            forward, backward = measured_flops(family, adapter, step)
            rows.append(
                {
                    "model": family,
                    "rank": rank,
                    "forward_flops": counted.forward_flops,
                    "torch_forward_flops": forward,
                    "backward_flops": counted.backward_flops,
                    "torch_backward_flops": backward,
                }
            )
    return rows


def published_rows() -> list[dict[str, Any]]:
    """Every bundled config at full size: rank 8, one sequence of 128 tokens."""
    from airtune.workload.adapter_shape import AdapterShape
    from airtune.workload.architecture import load_architecture
    from airtune.workload.config_source import bundled_names
    from airtune.workload.step import Step
    from airtune.workload.transformer import workload
    from tests.workload.published_models import measure_on_meta

    rows = []
    for name in bundled_names():
        step = Step(1, 128)
        counted = workload(load_architecture(name), AdapterShape(8), step)
        torch_says = measure_on_meta(name, 8, step)
        rows.append(
            {
                "model": name,
                "rank": 8,
                "parameters": counted.parameters,
                "torch_parameters": torch_says.parameters,
                "adapter_parameters": counted.adapter_parameters,
                "torch_adapter_parameters": torch_says.adapter_parameters,
                "forward_flops": counted.forward_flops,
                "torch_forward_flops": torch_says.forward_flops,
                "backward_flops": counted.backward_flops,
                "torch_backward_flops": torch_says.backward_flops,
            }
        )
    return sorted(rows, key=lambda row: row["parameters"])


def memory_rows() -> list[dict[str, Any]]:
    """Activations that autograd keeps, with transformers' default attention."""
    from airtune.workload.adapter_shape import AdapterShape
    from airtune.workload.families import FAMILIES
    from tests.workload.small_models import DEFAULT_EXPERTS, architecture, batch, with_adapter
    from tests.workload.test_step_memory import STEP, predicted_bytes, saved_bytes

    rows = []
    for family in FAMILIES:
        for dtype, torch_dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
            adapter = AdapterShape(8)
            model = with_adapter(family, adapter, "sdpa", torch_dtype, DEFAULT_EXPERTS)
            rows.append(
                {
                    "model": family,
                    "dtype": dtype,
                    "kept_bytes": predicted_bytes(architecture(family), adapter, dtype, "sdpa"),
                    "torch_kept_bytes": saved_bytes(model, batch(family, STEP)),
                    "positions": STEP.positions,
                }
            )
    return rows


def deviation(row: dict[str, Any], *names: str) -> str:
    """Counted over torch's figure, less 1, where it is furthest from 0; 'none' if all are equal."""
    shares = [row[name] / row[f"torch_{name}"] - 1 for name in names]
    return f"{max(shares, key=abs):+.2%}" if any(shares) else "none"


def table(heading: str, rows: Iterable[Iterable[object]]) -> str:
    """A markdown table from a heading row with `|` and rows of cells."""
    lines = [f"| {heading} |", "|" + "---|" * (heading.count("|") + 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def small_table(rows: list[dict[str, Any]]) -> str:
    """Families and ranks."""
    return table(
        "family | rank | forward | deviation | forward + backward | deviation",
        (
            [
                row["model"],
                row["rank"],
                f"{row['forward_flops']:,}",
                deviation(row, "forward_flops"),
                f"{row['forward_flops'] + row['backward_flops']:,}",
                deviation(row, "forward_flops", "backward_flops"),
            ]
            for row in rows
        ),
    )


def published_table(rows: list[dict[str, Any]]) -> str:
    """Published models at full size."""
    figures = ("parameters", "adapter_parameters", "forward_flops", "backward_flops")
    return table(
        "model | parameters | adapter, rank 8 | forward | backward | any deviation",
        (
            [row["model"], *(f"{row[name]:,}" for name in figures), deviation(row, *figures)]
            for row in rows
        ),
    )


def markdown(result: dict[str, Any]) -> str:
    """The three tables as docs/workload.md shows them."""
    kept = table(
        "family | base | kept activations | deviation",
        (
            [row["model"], row["dtype"], f"{row['kept_bytes']:,}", deviation(row, "kept_bytes")]
            for row in result["memory"]
        ),
    )
    return (
        "Small random models, 3 sequences of 20 tokens [FLOP]:\n\n"
        f"{small_table(result['small'])}\n\n"
        "Published models at full size, one sequence of 128 tokens [FLOP]:\n\n"
        f"{published_table(result['published'])}\n\n"
        "Activations kept for the backward pass, small random models, rank 8, "
        f"{result['memory'][0]['positions']} tokens [byte]:\n\n{kept}"
    )


def insert(text: str, tables: str) -> str:
    """The document with the tables between its markers."""
    start, end = "<!-- tables: begin -->", "<!-- tables: end -->"
    before, rest = text.split(start)
    return f"{before}{start}\n\n{tables}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Measure, write, and say where the worst deviation is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent / "results" / "flops_table.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    import peft
    import torch
    import transformers

    result = {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "small": small_rows(),
        "published": published_rows(),
        "memory": memory_rows(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    DOCUMENT.write_text(insert(DOCUMENT.read_text(), markdown(result)))
    print(f"Wrote {options.out} and the tables of {DOCUMENT}.")


if __name__ == "__main__":
    main()
