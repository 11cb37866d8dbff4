"""Report of a benchmark: the times of every engine on one page."""

from __future__ import annotations

from pathlib import Path

from thinlens.benchmark.run import BenchResult
from thinlens.engine.version import version_line
from thinlens.report.contents import EngineTime, ReportContents
from thinlens.report.interactive import write_interactive
from thinlens.report.tables import Table


def write_bench_page(path: Path, network: str, result: BenchResult, table: Table) -> None:
    """Write the page of a benchmark of `network`; `table` has a row for every engine."""
    content = result.as_json()
    machine = content["machine"]
    figures = [
        (
            f"{factor:.2f} x as fast",
            f"as {content['best_dense'][name]['engine']}, the fastest dense engine in "
            f"{'any precision' if name == 'any' else name}",
        )
        for name, factor in content["speedup"].items()
        if factor is not None
    ]
    sentence = (
        f"Medians in turns on {machine['cpu']}, {machine['cores']} cores, {machine['kernels']} "
        f"kernels; input {machine['size']}, batch 1."
    )
    missing = [f"{row['engine']} {row['precision']}: {row['why']}" for row in content["missing"]]
    origin = {"versions": version_line(), "did not run": "; ".join(missing)}
    contents = ReportContents(
        [],
        sentence,
        network,
        times=[
            EngineTime(
                f"{row['engine']} {row['precision']}",
                *(row[key] for key in ("ms_median", "ms_p10", "ms_p90", "sparse")),
            )
            for row in content["rows"]
        ],
        tables=[Table(table.columns, table.rows, "Engines")],
        figures=figures,
        origin={key: value for key, value in origin.items() if value},
    )
    write_interactive(path, contents)
