"""Jobs on a model, a loader and a score that a user's function makes: ``ofa-slim compress module:function``."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle import nn

from ofa_slim.base.files import atomic_file
from ofa_slim.errors import OfaSlimError, RecipeError, nearest
from ofa_slim.export.formats import time_models, write_formats
from ofa_slim.export.formats.opened import read_card
from ofa_slim.export.formats.proof import Sample
from ofa_slim.export.formats.write import RECORD_FILE
from ofa_slim.job.compressed import Compressed
from ofa_slim.job.distilling import Finish
from ofa_slim.job.one_call import compress
from ofa_slim.job.pick import PICKS, Wish, best_of, points_of
from ofa_slim.job.stage_folders import OWN_RESULTS, StageError, read_json, write_json
from ofa_slim.job.with_training import Begun, Evaluate, Training
from ofa_slim.supernet import SubnetConfig

REPORT = "report.md"
ORIGINAL, SMALLER = "original", "smaller"


@dataclass(frozen=True)
class OwnJob:
    """What a job on a model of one's own needs; a function of no arguments returns it.

    Attributes:
        model: the trained model.
        loader: batches, as `ofa_slim.compress` takes them.
        evaluate: ``evaluate(model)`` -> a score, or several by name of which the first counts; the higher the better.
        training: how the supernet trains and what the search scores.
        finish: how the chosen sub-network then trains alone; None: it does not.
        build: a function at the top of a module that makes a model of the original sizes. It is needed for the format
            ``"plain"`` of a model that is not of PaddleNLP.
    """

    model: nn.Layer
    loader: Iterable[Any]
    evaluate: Evaluate
    training: Training = field(default_factory=Training)
    build: Callable[[], nn.Layer] | None = None
    finish: Finish | None = None


def own_job(name: str) -> OwnJob:
    """Calls ``module:function``; modules of the current folder are found too.

    Raises: RecipeError that says what is wrong with the module, the function or what it returns.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise RecipeError(f"{name}: {module_name!r} cannot be imported: {_told(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise RecipeError(f"{name}: {module_name} has no function {function_name!r}{nearest(function_name, known)}")
    try:
        job = function()
    except OfaSlimError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise RecipeError(f"{name} failed: {_told(error)}") from error
    if not isinstance(job, OwnJob):
        raise RecipeError(f"{name} returned a {type(job).__name__}, not an ofa_slim.OwnJob")
    return job


def _told(error: Exception) -> str:
    """An error with the line of the user's code that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if "importlib" not in frame.filename]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"


def run_own(name: str, folder: Path, budget: Mapping[str, float], formats: Sequence[str]) -> str:
    """Compresses, writes the original and the smaller model in the formats, times them in turns; returns the report.

    What is in the folder goes on: the training from its checkpoint, the search from its study.

    Raises: RecipeError as `own_job`; ConfigError, SearchError and ExportError as `ofa_slim.compress`.
    """
    job = own_job(name)
    folder.mkdir(parents=True, exist_ok=True)
    small = compress(job.model, job.loader, job.evaluate, budget, job.training, directory=folder, finish=job.finish)
    records = {
        title: _written(job, model, folder / title, formats, small.samples, config)
        for title, model, config in (
            (ORIGINAL, job.model, small.report.original_config),
            (SMALLER, small.model, small.report.config),
        )
    }
    shapes = _timed(small.samples)
    times = time_models({(title, form): folder / title / form for title in records for form in formats}, shapes,
                        build=_build_name(folder / ORIGINAL, formats))  # fmt: skip
    rows = []
    for (title, form), found in times.items():
        entry = records[title]["formats"][form]
        entry["latency_ms"] = found
        rows.append({"model": title, "format": form, "bytes": entry["bytes"], "latency_ms": found,
                     "parameters": records[title]["parameters"]})  # fmt: skip
    for title, record in records.items():
        write_json(folder / title / RECORD_FILE, record)
    write_json(folder / OWN_RESULTS, {"code": name, "rows": rows, **small.report.to_dict()})
    text = _table(rows, small)
    with atomic_file(folder / REPORT) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
    return text


def pick_own(name: str, folder: Path, wishes: Sequence[Wish], formats: Sequence[str] | None) -> list[str]:
    """Writes the best scored sub-network for each wish into the run's folder; returns a text for each.

    Raises: StageError for a folder without a finished run of this code; SearchError for a wish that none fulfils.
    """
    if not (folder / OWN_RESULTS).is_file():
        raise StageError(f"{folder} holds no finished run of {name}: {OWN_RESULTS} is not there")
    made_by, written = _results(folder / OWN_RESULTS)
    if made_by != name:
        raise StageError(f"{folder} was made by {made_by!r}, not by {name!r}")
    points = points_of(folder)
    chosen = [best_of(points, wish) for wish in wishes]
    job = own_job(name)
    begun = Begun.of(job.model, job.loader, job.training, folder)
    begun.train(job.training, {})  # restores it
    wanted = written if formats is None else formats
    texts = []
    for wish, point in zip(wishes, chosen, strict=True):
        config = SubnetConfig(point["config"])
        target = folder / PICKS / wish.name
        record = _written(job, begun.export(config), target, wanted, begun.samples(), config)
        costs = ", ".join(f"{key} {point['costs'][key]:,.4g}" for key in dict.fromkeys([*wish.budget, "params"]))
        scores = ", ".join(f"{key} {value:.4f}" for key, value in point["metrics"].items())
        lines = [f"{wish.describe()}:", f"  {scores} in the search", f"  {costs}"]
        texts.append("\n".join(lines + [
            f"  {target / form} ({entry['bytes'] / 1e6:.2f} MB)" for form, entry in record["formats"].items()
        ]))  # fmt: skip
    return texts


def _results(file: Path) -> tuple[str, list[str]]:
    """The code that made a run, and the formats it wrote; raises StageError for a file that does not say so."""
    content = read_json(file)
    try:
        return str(content["code"]), list(dict.fromkeys(str(row["format"]) for row in content["rows"]))
    except (KeyError, TypeError, IndexError) as error:
        raise StageError(f"{file} does not say which code made the run, and in which formats") from error


def _written(
    job: OwnJob, model: nn.Layer, target: Path, formats: Sequence[str], samples: Sequence[Sample], config: SubnetConfig
) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_formats(model, target, samples, formats, build=job.build, config=config)


def _build_name(folder: Path, formats: Sequence[str]) -> str | None:
    """The function that the written plain format needs."""
    if "plain" not in formats:
        return None
    build: str | None = read_card(folder / "plain").get("build")
    return build


def _timed(samples: Sequence[Sample]) -> list[Sample]:
    """One row, and a whole batch."""
    first = samples[0]
    one = {name: value[:1] for name, value in first.items()}
    return [one, first] if len(next(iter(first.values()))) > 1 else [one]


def _table(rows: Sequence[Mapping[str, Any]], small: Compressed) -> str:
    """The rows beside the original's in the same format, and what was chosen."""
    shapes = list(rows[0]["latency_ms"])
    lines = [
        "| model | format | parameters | size | " + " | ".join(f"{shape} ms (x)" for shape in shapes) + " |",
        "| --- | --- | ---: | ---: |" + " ---: |" * len(shapes),
    ]
    whole = {row["format"]: row for row in rows if row["model"] == ORIGINAL}
    for row in rows:
        times = [
            f"{row['latency_ms'][shape]['median']:.2f} "
            f"({whole[row['format']]['latency_ms'][shape]['median'] / row['latency_ms'][shape]['median']:.2f})"
            for shape in shapes
        ]
        lines.append(
            f"| {row['model']} | {row['format']} | {row['parameters'] / 1e6:.3f} M | {row['bytes'] / 1e6:.2f} MB | "
            + " | ".join(times) + " |"
        )  # fmt: skip
    return "\n".join(lines) + f"\n\nIn brackets: times as fast as the original in the same format.\n\n{small.report}"
