"""`report.html`: one page that stands alone, for someone who did not run it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ofa_slim.base.json_files import parse_json
from ofa_slim.export.formats import FORMATS
from ofa_slim.job.explorer import as_script, explorer_data
from ofa_slim.job.run import SCALARS, Run
from ofa_slim.job.stage_folders import write_text
from ofa_slim.job.writing_stages import ORIGINAL, SEARCHED
from ofa_slim.search.cost_kinds import COSTS
from ofa_slim.tasks.metrics import UNBOUNDED

PAGE = "report.html"
BAR = 90  # pixels of the longest bar

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
        "pareto": _embedded(search / "pareto.png"),
        "winner": _embedded(search / "winner.png"),
    }
    script, style = _beside("page.parts.js") + _beside("page.js"), _beside("page.css")
    environment = Environment(
        loader=PackageLoader("ofa_slim.job", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("page.html").render(
        task=report["task"],
        metric=report["metric"],
        lead=lead(report),
        formats=format_rows(formats),
        pairs=pair_rows(formats),
        shapes=list(formats["rows"][0]["latency_ms"]),
        rows=report["scored_on"],
        compared=COMPARED,
        search=report["search"],
        front=_front(report["search"]),
        uniform=uniform,
        pictures=pictures,
        curves=_curves(run.folder / SCALARS),
        loading=_loading(run),
        took=", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["seconds"].items()),
        memory=report["peak_memory_mib"],
        environment=report["environment"],
        recipe=yaml.safe_dump(report["settings"], sort_keys=False),
        versions=json.dumps(report["environment"], indent=1),
        style=Markup(style),
        script=Markup(script),
        script_hash=_checksum(script),
        data=Markup(as_script(explorer_data(report, run.recipe.output_dir))),
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


def pair_rows(formats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The original beside the searched model, one row per format that both have."""
    rows = {(row["model"], row["format"]): row for row in formats["rows"]}
    found = []
    for (model, form), after in rows.items():
        before = rows.get((ORIGINAL, form))
        if model != SEARCHED or before is None:
            continue
        times = []
        for shape, time in after["latency_ms"].items():
            ratio = time["median"] / before["latency_ms"][shape]["median"]
            times.append(
                {
                    "change": f"{before['latency_ms'][shape]['median']:.2f} → {time['median']:.2f}",
                    "speed_up": f"{1 / ratio:.2f}",
                    "bar": f"{BAR * min(ratio, 1.0):.0f}",
                }
            )
        found.append(
            {
                "format": form,
                "score": f"{100 * before['score']:.2f} → {100 * after['score']:.2f}",
                "size": f"{before['bytes'] / 1e6:.1f} → {after['bytes'] / 1e6:.1f} MB",
                "times": times,
            }
        )
    return found


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
        f" {about_text(formats, metric)}"
    ).rstrip()


def about_text(about: Mapping[str, Any], metric: str, name: str = SEARCHED) -> str:
    """What was done to the chosen model beside cutting, in a sentence each; see `Chosen.about`."""
    found = []
    if vocabulary := about.get("vocabulary"):
        before, after = (vocabulary[f"parameters_{when}"] / 1e6 for when in ("before", "after"))
        found.append(
            f"Of {vocabulary['rows']:,} tokens the {name} model has {vocabulary['kept']:,}, which are "
            f"{100 * vocabulary['coverage']:.1f} % of those in the training texts: {after:.2f} instead of {before:.2f} "
            "million parameters."
        )
    if finish := about.get("finish"):
        before, after = (next(iter(finish[key].values()))[metric] for key in ("scores_before", "scores"))
        scale = 1 if metric in UNBOUNDED else 100
        epochs = f"{finish['epochs']} epoch{'s' if finish['epochs'] > 1 else ''}"
        found.append(
            f"The {name} model then trained alone for {epochs}, with the original as its teacher: {metric} "
            f"{scale * before:.2f} before, {scale * after:.2f} after."
        )
    if factorised := about.get("embeddings"):
        before, after = (factorised[f"parameters_{when}"] / 1e6 for when in ("before", "after"))
        found.append(
            f"Its word embeddings are a product of rank {factorised['rank']}, with {after:.2f} instead of {before:.2f} "
            "million parameters; its relative error, rows weighted by how often the training text has them, is "
            f"{100 * factorised['weighted_error']:.1f} %."
        )
    return " ".join(found)


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


def _front(search: Mapping[str, Any]) -> list[list[str]]:
    """The table of the front, its titles first; empty where nothing is within the budget."""
    points = search.get("front", ())
    if not points:
        return []
    numbers = {json.dumps(point["config"], sort_keys=True): at for at, point in enumerate(search["points"])}
    kinds = [kind for kind in COSTS.values() if kind.name in points[0]["costs"]]
    rows = [["number", search["metric"], *(kind.title.partition(" (")[0] for kind in kinds)]]
    for point in points:
        costs = [kind.text(point["costs"][kind.name]) for kind in kinds]
        number = numbers.get(json.dumps(point["config"], sort_keys=True), "")
        rows.append([str(number), f"{100 * point['score']:.2f} %", *costs])
    return rows


def _curves(file: Path, width: float = 270, height: float = 160) -> list[dict[str, Any]]:
    """The training losses as polylines in a box whose upper left corner is (40, 10), one per training."""
    if not file.is_file():
        return []
    losses: dict[str, dict[int, float]] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = parse_json(line, infinite=True)
            name, step, value = str(entry["name"]), int(entry["step"]), float(entry["value"])
        except (KeyError, TypeError, ValueError):  # the last line of a run that was killed
            continue
        if name.endswith("/loss") and abs(value) < float("inf"):
            losses.setdefault(name.removesuffix("/loss"), {})[step] = value
    curves = []
    for name, values in losses.items():
        steps = sorted(values)
        first, last, top = steps[0], steps[-1], max(*values.values(), 0.0) or 1.0
        across = width / max(last - first, 1)
        places = [
            f"{40 + across * (step - first):.1f},{10 + height * (1 - max(values[step], 0.0) / top):.1f}"
            for step in steps
        ]
        curves.append(
            {
                "title": name,
                "steps": last,
                "top": f"{top:.3g}",
                "first": f"{values[first]:.3g}",
                "last": f"{values[last]:.3g}",
                "points": " ".join(places if len(places) > 1 else 2 * places),
            }
        )
    return curves


def _beside(name: str) -> str:
    """The text of a file that is beside this module."""
    return resources.files("ofa_slim.job").joinpath(name).read_text(encoding="utf-8")


def _checksum(script: str) -> str:
    """What a content security policy allows this one script by; no other runs in the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _embedded(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
