"""`write_formats`: a model as files in several formats, each read back in a fresh process before it is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.checks import check_many
from ofa_slim.base.examples import TOLERANCE
from ofa_slim.base.modes import eval_mode
from ofa_slim.errors import ExportError, nearest
from ofa_slim.export.formats.opened import CARD_FILE, Opened
from ofa_slim.export.formats.processes import run_in_subprocess, time_models
from ofa_slim.export.formats.proof import Sample, agreement, check_samples, difference
from ofa_slim.export.formats.reader import Run, layer_run
from ofa_slim.export.formats.registry import FORMATS, Format, Source, spec_of_samples
from ofa_slim.export.formats.standalone import prove_answers, put_beside
from ofa_slim.export.pretrained import is_pretrained
from ofa_slim.export.subnet_files import replacing
from ofa_slim.supernet.handle import require_plain

RECORD_FILE = "export.json"
LEAST_AGREEMENT = 0.9

Score = Callable[[Run], float]
"""Scores what maps inputs by name to outputs; the higher the better."""

logger = logging.getLogger(__name__)


def write_formats(
    model: nn.Layer,
    directory: str | os.PathLike[str],
    samples: Sequence[Sample],
    formats: Sequence[str] = ("plain", "inference"),
    *,
    reference: nn.Layer | None = None,
    calibration: Sequence[Sample] | None = None,
    score: Score | None = None,
    tolerance: float = 0.015,
    timed: Sequence[Sample] = (),
    tokenizer: Any = None,
    task: Mapping[str, Any] | None = None,
    build: Callable[[], nn.Layer] | None = None,
    config: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Writes a plain model in several formats, each into a folder of its name, and ``export.json`` beside them.

    Each format is read back in a fresh process (for Paddle Inference and ONNX one without this library), run on the
    samples and compared. Only when all of them compute what they should is the directory put in place.

    Args:
        model: a plain model; a supernet is cut by `OFA.export` first.
        directory: where to; it must be new, empty, or an earlier one of these, which is replaced.
        samples: real inputs: dictionaries of arrays by the name of the model's input, together at least 64 rows. Token
            ids should come in several lengths and with padding.
        formats: of `FORMATS`: ``"plain"`` (safetensors and JSON), ``"inference"`` (Paddle Inference), ``"onnx"``,
            ``"onnx-int8"`` (dynamic quantisation, for transformers), ``"onnx-int8-static"`` (for convolutions).
        reference: what the files are compared with, such as the supernet with the sub-network set; by default the
            model.
        calibration: inputs that static quantisation measures ranges on; by default the samples.
        score: the task's metric of what maps inputs to outputs.
        tolerance: how much of the score an 8-bit format may lose. Without a score it has to decide alike on 0.9 of the
            samples.
        timed: inputs that every format is timed on, in turns.
        tokenizer: its files are put beside each format.
        task: what `pipeline` needs; see `ofa_slim.export.formats.pipeline.TextTask`. With a tokenizer too each format
            for serving has ``predict.py``, which needs no `ofa_slim` and is proven to answer as `pipeline` does.
        build: makes a model of the same class and original sizes; needed by ``"plain"`` for models that are not of
            PaddleNLP. A function that can be imported.
        config: the sub-network's sizes, for the record.

    Returns: what ``export.json`` holds; ``bytes`` of a format are those of its model's files.

    Raises: ExportError for invalid arguments, before any work; and for files that do not compute what they should, or
        cannot be written: nothing is left behind then.
    """
    chosen = _chosen(formats)
    require_plain(model, "write_formats")
    rows = check_samples(samples)
    made_by = _importable(model, build) if "plain" in formats else None
    with eval_mode(model):
        right = model if reference is None else reference
        with eval_mode(right):
            expected = [layer_run(right)(dict(sample)) for sample in samples]
        example = {name: paddle.to_tensor(value) for name, value in samples[0].items()}
        source = Source(model, spec_of_samples(samples), samples if calibration is None else calibration, example)
        wanted = None if score is None else score(layer_run(model))
        with replacing(directory, marker=RECORD_FILE) as aside:
            entries: dict[str, dict[str, Any]] = {}
            engines_files: dict[str, dict[str, dict[str, Any]]] = {}
            for kind in _with_needs(chosen):
                folder = aside / (kind.name if kind.name in formats else f".{kind.name}")
                folder.mkdir()
                kind.write(source, folder)
                source.done[kind.name] = folder
                if kind.name in formats:
                    engines_files[kind.name] = _files(folder)
                    _describe(folder, kind, samples[0], made_by, tokenizer, task)
            with ThreadPoolExecutor(min(len(chosen), os.cpu_count() or 1)) as pool:
                outputs = list(pool.map(lambda kind: run_in_subprocess(aside / kind.name, samples, made_by), chosen))
            for kind, found in zip(chosen, outputs, strict=True):
                entry = entries[kind.name] = _proven(
                    kind, aside / kind.name, expected, found, score, wanted, tolerance, build
                )
                logger.info(
                    "%s: differs by %.2g, decides alike on %.3f%s",
                    kind.name, entry["difference"], entry["agreement"],
                    f", scores {entry['score']:.4f}" if "score" in entry else "",
                )  # fmt: skip
            if tokenizer is not None and task is not None:
                for kind in chosen:
                    prove_answers(aside / kind.name)
            for name in set(source.done) - set(formats):
                shutil.rmtree(source.done[name])
            latency = time_models({name: aside / name for name in entries}, timed, build=made_by)
            for name, entry in entries.items():
                entry["latency_ms"] = latency.get(name, {})
                entry["files"] = _files(aside / name)
                entry["bytes"] = sum(file["bytes"] for file in engines_files[name].values())
            record = {
                "class": type(model).__name__,
                "config": None if config is None else dict(config),
                "parameters": sum(int(np.prod(parameter.shape)) for parameter in model.parameters()),
                "samples": {
                    "rows": rows,
                    "shapes": sorted({str(list(next(iter(sample.values())).shape)) for sample in samples}),
                },
                "score": wanted,
                "formats": entries,
                "versions": _versions(),
            }
            (aside / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _chosen(formats: Sequence[str]) -> list[Format]:
    check_many(formats, "formats", f"some of {', '.join(FORMATS)}", ExportError)
    if not formats:
        raise ExportError(f"formats is {formats!r}, not a list of some of {', '.join(FORMATS)}")
    for name in formats:
        if name not in tuple(FORMATS):
            raise ExportError(f"no format {name!r}{nearest(str(name), FORMATS)}; there are {', '.join(FORMATS)}")
    return [kind for name, kind in FORMATS.items() if name in formats]


def _with_needs(chosen: Sequence[Format]) -> list[Format]:
    """The formats and those they are made from, in order."""
    names = {kind.name for kind in chosen}
    for kind in chosen:
        while kind.needs is not None:
            names.add(kind.needs)
            kind = FORMATS[kind.needs]
    return [kind for name, kind in FORMATS.items() if name in names]


def _importable(model: nn.Layer, build: Callable[[], nn.Layer] | None) -> str | None:
    """``module:function`` of what builds a model."""
    if build is None:
        if is_pretrained(model):
            return None
        raise ExportError(
            f"format 'plain': {type(model).__name__} is not a class of PaddleNLP, so that only your code can build it; "
            "give build=, a function of no arguments at the top of a module"
        )
    name = getattr(build, "__qualname__", "")
    if not name or "<" in name or "." in name or build.__module__ == "__main__":
        raise ExportError(f"build is {build!r}; a fresh process has to import it, so it stands at the top of a module")
    return f"{build.__module__}:{name}"


def _describe(
    folder: Path, kind: Format, sample: Sample, build: str | None, tokenizer: Any, task: Mapping[str, Any] | None
) -> None:
    """Puts what is needed to use a format beside its files."""
    card = {
        "format": kind.name,
        "opener": kind.opener,
        "inputs": {name: str(value.dtype) for name, value in sample.items()},
        "build": build if kind.opener == "plain" else None,
        "task": None if task is None else dict(task),
    }
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    put_beside(folder, kind.opener, tokenizer, task, {name: list(value.shape) for name, value in sample.items()})


def _proven(
    kind: Format,
    folder: Path,
    expected: Sequence[Sequence[np.ndarray]],
    found: Sequence[Sequence[np.ndarray]],
    score: Score | None,
    wanted: float | None,
    tolerance: float,
    build: Callable[[], nn.Layer] | None,
) -> dict[str, Any]:
    """How what a format computed in a fresh process compares; raises ExportError where it is not what it should be."""
    entry: dict[str, Any] = {"difference": difference(expected, found), "agreement": agreement(expected, found)}
    entry["tolerance"] = TOLERANCE if kind.exact else tolerance
    if kind.exact and not entry["difference"] <= TOLERANCE:
        raise ExportError(
            f"{kind.name} does not compute what the model does: its outputs differ by {entry['difference']:.3g}, "
            f"allowed is {TOLERANCE:g}. Nothing was kept"
        )
    if score is not None and wanted is not None:
        entry["score"] = score(Opened(folder, build))
        lost = wanted - entry["score"]
        if not kind.exact and not lost <= tolerance:
            raise ExportError(
                f"{kind.name} scores {entry['score']:.4f}, the model {wanted:.4f}: more than the {tolerance:g} that it "
                "may lose. Nothing was kept"
            )
    elif not kind.exact and not entry["agreement"] >= LEAST_AGREEMENT:
        raise ExportError(
            f"{kind.name} agrees with the model on {entry['agreement']:.3f} of the samples, wanted are "
            f"{LEAST_AGREEMENT:g}. Nothing was kept"
        )
    return entry


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with file.open("rb") as content:
            for piece in iter(lambda: content.read(1 << 20), b""):
                digest.update(piece)
        found[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in (
        "ofa-slim",
        "paddlepaddle",
        "paddlepaddle-gpu",
        "paddlenlp",
        "numpy",
        "paddle2onnx",
        "onnx",
        "onnxruntime",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
