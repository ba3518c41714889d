"""`report.html`: one page that stands alone, for someone who did not run it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from ofa_slim.base.json_files import parse_json
from ofa_slim.export.formats import FORMATS
from ofa_slim.job.run import SCALARS, Run
from ofa_slim.job.stage_folders import write_text
from ofa_slim.job.writing_stages import ORIGINAL, SEARCHED

PAGE = "report.html"

COMPARED = (
    'Speed-ups, and "smaller" for sizes, are against the original in the same format; "format alone" is how much '
    "faster that format makes the original than the first one does."
)

ANY = """import ofa_slim
classify = ofa_slim.pipeline("{folder}")  # any of these folders, tokenizer included
classify(["a text", "another"])"""


def write_page(run: Run, report: Mapping[str, Any], uniform: Sequence[Sequence[str]], picture: Path) -> Path:
    """Writes the page of a run.

    Args:
        run: the run.
        report: what ``report.json`` holds.
        uniform: the table of uniform widths and depths, its titles first.
        picture: of that table.
    """
    formats, search = report["formats"], run.folder / "search"
    pictures = {
        "uniform": _embedded(picture),
        "curves": _curves(run.folder / SCALARS),
        "pareto": _embedded(search / "pareto.png"),
        "winner": _embedded(search / "winner.png"),
    }
    environment = Environment(
        loader=PackageLoader("ofa_slim.job", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("page.html").render(
        task=report["task"],
        metric=report["metric"],
        lead=lead(report),
        formats=format_rows(formats),
        shapes=list(formats["rows"][0]["latency_ms"]),
        rows=report["scored_on"],
        compared=COMPARED,
        search=report["search"],
        uniform=uniform,
        pictures=pictures,
        loading=_loading(run),
        took=", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["seconds"].items()),
        memory=report["peak_memory_mib"],
        environment=report["environment"],
        recipe=yaml.safe_dump(report["settings"], sort_keys=False),
        versions=json.dumps(report["environment"], indent=1),
    )
    target = run.folder / PAGE
    write_text(target, page)
    return target


def format_rows(formats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of formats, in words.

    Speed-ups and sizes are against the original in the same format; what the format alone does to the original, against
    its first format, stands beside them.
    """
    originals = {row["format"]: row for row in formats["rows"] if row["model"] == ORIGINAL}
    first = formats["rows"][0]["latency_ms"]
    return [
        {
            "model": row["model"],
            "format": row["format"],
            "score": f"{100 * row['score']:.2f}",
            "size": f"{row['bytes'] / 1e6:.1f} MB",
            "smaller": f"{originals[row['format']]['bytes'] / row['bytes']:.2f}",
            "best": row["model"] == SEARCHED and row["format"].startswith("onnx-int8"),
            "times": [
                {
                    "median": f"{time['median']:.2f}",
                    "p95": f"{time['p95']:.2f}",
                    "speed_up": f"{original['median'] / time['median']:.2f}",
                    "format_alone": f"{first[shape]['median'] / original['median']:.2f}",
                }
                for shape, time in row["latency_ms"].items()
                for original in [originals[row["format"]]["latency_ms"][shape]]
            ],
        }
        for row in formats["rows"]
    ]


def lead(report: Mapping[str, Any]) -> str:
    """The whole result in a few sentences."""
    formats = report["formats"]
    rows = format_rows(formats)
    searched = [row for row in rows if row["model"] == SEARCHED]
    after = next((row for row in searched if row["best"]), searched[-1])
    before = next(row for row in rows if row["model"] == ORIGINAL and row["format"] == after["format"])
    times, metric, slow = after["times"][0], report["metric"], before["times"][0]["median"]
    runtime = (
        f" The format alone makes the original {times['format_alone']} times as fast as {rows[0]['format']}."
        if after["format"] != rows[0]["format"]
        else ""
    )
    return (
        f"The searched model ({after['size']}) answers {times['speed_up']} times as fast as the original "
        f"({before['size']}), both in the format {after['format']}: in {times['median']} instead of {slow} ms for one "
        f"input, with {metric} {after['score']} % against {before['score']} %.{runtime}"
        f"{_embeddings(formats.get('embeddings'))}"
    )


def _embeddings(factorised: Mapping[str, Any] | None) -> str:
    if factorised is None:
        return ""
    before, after = (factorised[f"parameters_{when}"] / 1e6 for when in ("before", "after"))
    return (
        f" Its word embeddings are a product of rank {factorised['rank']}, with {after:.2f} instead of {before:.2f} "
        "million parameters; its relative error, rows weighted by how often the training text has them, is "
        f"{100 * factorised['weighted_error']:.1f} %."
    )


def markdown_rows(formats: Mapping[str, Any], metric: str) -> str:
    """The table of formats as Markdown."""
    shapes = list(formats["rows"][0]["latency_ms"])
    timed = [name for shape in shapes for name in (f"{shape} ms", "speed-up", "format alone")]
    titles = ["model", "format", metric, "size", "smaller", *timed]
    cells = [titles] + [
        [row["model"], row["format"], row["score"], row["size"], row["smaller"]]
        + [value for time in row["times"] for value in (time["median"], time["speed_up"], time["format_alone"])]
        for row in format_rows(formats)
    ]
    wide = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    lines = ["| " + " | ".join(_padded(row, wide)) + " |" for row in cells]
    rule = ["-" * width if place < 2 else "-" * (width - 1) + ":" for place, width in enumerate(wide)]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _padded(row: Sequence[str], wide: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if place < 2 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, wide, strict=True))
    ]


def _loading(run: Run) -> list[tuple[str, str]]:
    """The lines that load the searched model, by format."""
    folder, names = f"{run.recipe.output_dir}/formats/{SEARCHED}", run.recipe.formats
    pipeline = ("text in, labels out", ANY.format(folder=f"{folder}/{names[-1]}"))
    return [pipeline, *((name, FORMATS[name].snippet.format(folder=f"{folder}/{name}")) for name in names)]


def _curves(file: Path) -> str | None:
    """The training losses, smoothed by nothing, one panel per training."""
    if not file.is_file():
        return None
    losses: dict[str, dict[int, float]] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = parse_json(line, infinite=True)
            name, step, value = str(entry["name"]), int(entry["step"]), float(entry["value"])
        except (KeyError, TypeError, ValueError):  # the last line of a run that was killed
            continue
        if name.endswith("/loss"):
            losses.setdefault(name.removesuffix("/loss"), {})[step] = value
    if not losses:
        return None
    figure, panels = plt.subplots(1, len(losses), figsize=(3.6 * len(losses), 3), layout="constrained", squeeze=False)
    for axes, (name, values) in zip(panels[0], losses.items(), strict=True):
        steps = sorted(values)
        axes.plot(steps, [values[step] for step in steps], linewidth=1.2, marker="o", markersize=2.5)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    panels[0][0].set_ylabel("loss")
    return _drawn(figure)


def _drawn(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    plt.close(figure)
    return _data(buffer.getvalue())


def _embedded(picture: Path) -> str:
    return _data(picture.read_bytes())


def _data(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
