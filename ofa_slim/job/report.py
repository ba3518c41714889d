"""The report: a table, `report.json`, `report.md` and a picture."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import paddle

from ofa_slim.base.files import atomic_file
from ofa_slim.base.threads import threads
from ofa_slim.job.page import COMPARED, lead, markdown_rows, write_page
from ofa_slim.job.plan import STAGES
from ofa_slim.job.run import Run
from ofa_slim.job.stage_folders import MARK, RESULTS, StageError, read_json, write_json, write_text
from ofa_slim.tasks.metrics import UNBOUNDED

matplotlib.use("Agg")

PICTURE = "accuracy_vs_latency.png"
REPORTED = ("finetune", "evaluate", "search", "formats")  # the stages whose output a report needs


def write_report(run: Run) -> str:
    """Writes all forms of the report from the stages' results; returns the table.

    Raises: StageError where a stage's result is missing.
    """
    report = collect(run)
    table = markdown_table(report)
    write_json(run.folder / "report.json", report)
    draw(report, run.folder / PICTURE)
    formats = markdown_rows(report["formats"], report["metric"])
    write_text(run.folder / "report.md", markdown(report, table, formats))
    write_page(run, report, cells(report), run.folder / PICTURE)
    return f"{table}\n\n{formats}\n\n{lead(report)}"


def collect(run: Run) -> dict[str, Any]:
    """All results of a run."""
    for name in REPORTED:
        if not (run.folder / name / MARK).is_file():
            raise StageError(f"the report needs the output of {name}, but {run.folder / name} is not there")
    original = read_json(run.folder / "finetune" / RESULTS)
    inside = read_json(run.folder / "evaluate" / RESULTS)
    formats = read_json(run.folder / "formats" / RESULTS)
    subnets = formats.pop("subnets")
    original["latency_ms"] = formats.pop("original_latency_ms")
    for subnet, before in zip(subnets, inside, strict=True):
        subnet["scores_in_supernet"] = before["scores"]
        subnet["speed_up"] = original["latency_ms"] / subnet["latency_ms"]
    marks = [read_json(mark) for name in STAGES if (mark := run.folder / name / MARK).is_file()]
    return {
        "task": run.task.name,
        "metric": run.task.metrics[0],
        "metrics": list(run.task.metrics),
        "original": original,
        "subnets": subnets,
        "settings": run.recipe.model_dump(mode="json"),
        "scored_on": f"the {next(iter(original['scores']))} rows",
        "search": read_json(run.folder / "search" / "report.json"),
        "formats": formats,
        "seconds": {mark["stage"]: mark["seconds"] for mark in marks},
        "peak_memory_mib": max(mark["peak_memory_mib"] for mark in marks),
        "environment": {
            "paddle": paddle.version.full_version,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": threads(),
        },
    }


def markdown_table(report: dict[str, Any]) -> str:
    """One row per sub-network, the original first; columns are aligned, so it also reads well as text."""
    rows = cells(report)
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(_aligned(row, wide)) + " |" for row in rows]
    rule = ["-" * wide[0], *("-" * (width - 1) + ":" for width in wide[1:])]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def cells(report: dict[str, Any]) -> list[list[str]]:
    """The table's cells, its titles first."""
    sets = list(report["original"]["scores"])
    columns = [(name, metric) for name in sets for metric in report["metrics"]]
    titles = [metric if len(sets) == 1 else f"{metric} ({name})" for name, metric in columns]
    rows = [["model", "layers", "parameters", *titles, "in supernet", "latency", "speed-up"]]

    def percents(scores: dict[str, dict[str, float]]) -> list[str]:
        return [f"{(1 if metric in UNBOUNDED else 100) * scores[name][metric]:.2f}" for name, metric in columns]

    original = report["original"]
    rows.append(
        ["original", "all", millions(original["parameters"]), *percents(original["scores"]), "",
         f"{original['latency_ms']:.2f} ms", "1.00"]
    )  # fmt: skip
    for subnet in report["subnets"]:
        rows.append(
            [f"width {subnet['width']:g}, depth {subnet['depth_mult']:g}", str(subnet["layers"]),
             millions(subnet["parameters"]), *percents(subnet["scores"]),
             percents(subnet["scores_in_supernet"])[0], f"{subnet['latency_ms']:.2f} ms",
             f"{subnet['speed_up']:.2f}"]
        )  # fmt: skip
    return rows


def markdown(report: dict[str, Any], table: str, formats: str) -> str:
    """The report as a page, with its two tables."""
    length = report["settings"]["latency_length"]
    seconds = ", ".join(f"{name} {took:.0f} s" for name, took in report["seconds"].items())
    chosen = "\n".join(f"- `{key}`: {value}" for key, value in report["settings"].items())
    return (
        f"# {report['task']}: accuracy against size and latency\n\n"
        f"{table}\n\n"
        f"![{report['metric']} against latency and parameters]({PICTURE})\n\n"
        "Scores are in percent, of the exported models as read back from their files; the column "
        f'"in supernet" is the same {report["metric"]} before export. Latency is the median of one row of '
        f"{length} tokens in Paddle Inference on {report['environment']['threads']} threads, each model in a process "
        "of its own, in turns with all models of both tables; speed-ups are against the original, in Paddle "
        "Inference too.\n\n"
        f"Stages took: {seconds}; at most {report['peak_memory_mib']} MiB of memory.\n\n"
        f"## In every format\n\n{formats}\n\n{COMPARED}\n\n"
        f"## Settings\n\n{chosen}\n"
    )


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws the main metric against latency and against parameters, one line per depth."""
    metric = report["metric"]
    name = next(iter(report["original"]["scores"]))
    original = report["original"]
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    axes_of = (("latency_ms", 1.0, "latency (ms)"), ("parameters", 1e-6, "parameters (millions)"))
    for axes, (key, unit, title) in zip(panels, axes_of, strict=True):
        depths = sorted({subnet["depth_mult"] for subnet in report["subnets"]}, reverse=True)
        for depth in depths:
            chosen = [subnet for subnet in report["subnets"] if subnet["depth_mult"] == depth]
            across = [unit * subnet[key] for subnet in chosen]
            up = [100 * subnet["scores"][name][metric] for subnet in chosen]
            axes.plot(across, up, marker="o", label=f"{chosen[0]['layers']} layers")
            for subnet, x, y in zip(chosen, across, up, strict=True):
                axes.annotate(
                    f"{subnet['width']:g}",
                    (x, y),
                    xytext=(-5, 5),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8,
                )
        height = 100 * original["scores"][name][metric]
        axes.axhline(height, color="0.6", linestyle=":", zorder=0)
        star = {"marker": "*", "markersize": 16, "color": "black", "markerfacecolor": "white", "linestyle": "none"}
        axes.plot(unit * original[key], height, label="original", zorder=1, **star)
        axes.set_xlabel(title)
        axes.margins(x=0.1, y=0.15)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel(f"{metric} (%)")
    panels[0].legend(loc="lower right", frameon=False)
    figure.suptitle(f"{report['task']}: exported sub-networks, labelled with their width")
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
    plt.close(figure)


def millions(count: int) -> str:
    """A count in millions."""
    return f"{count / 1e6:.2f} M"


def _aligned(row: list[str], wide: list[int]) -> list[str]:
    """The first column to the left, the others to the right."""
    return [
        row[0].ljust(wide[0]),
        *(cell.rjust(width) for cell, width in zip(row[1:], wide[1:], strict=True)),
    ]
