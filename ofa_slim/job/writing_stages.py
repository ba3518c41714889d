"""The last stage: every model that is written, scored and timed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.export.formats import Opened, time_models, write_formats
from ofa_slim.export.formats.pipeline import TextTask
from ofa_slim.export.formats.processes import SERVED
from ofa_slim.job.chosen import searched
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.run import Run, describe, score_arrays, subnet_name, timed_inputs
from ofa_slim.job.stage_folders import RESULTS, read_json, write_json
from ofa_slim.ofa import dynabert_config
from ofa_slim.supernet import SubnetConfig
from ofa_slim.train.batches import Batch, Batches, Examples, arrays, inputs_of
from ofa_slim.train.stack_layers import only_stack

LOG = logging.getLogger(__name__)

ORIGINAL, SEARCHED = "original", "searched"
INFERENCE = "inference"  # the format of the table of uniform sub-networks


def run_formats(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Writes the original, the uniform and the searched sub-network; scores all files; times all models in turns.

    The original and the searched one are written in every format of the recipe, uniform ones for Paddle and Paddle
    Inference.
    """
    recipe = run.recipe
    original, tokenizer = run.classifier("finetune")
    train, dev = run.examples(tokenizer)
    writer = ModelWriter(run, folder, tokenizer)
    writer.write(ORIGINAL, original, [*recipe.formats, INFERENCE], original)
    ofa, _ = run.supernet()
    best = SubnetConfig(read_json(run.folder / "search" / RESULTS)["config"])
    uniform = {subnet_name(width, depth): (width, depth) for width, depth in run.subnets()}
    also = {subnet_name(width, 1.0): (width, 1.0) for width in recipe.format_widths}
    configs = {name: ofa.subnet_config(dynabert_config(ofa, *sizes)) for name, sizes in {**uniform, **also}.items()}
    repair = calibration_batches(train, recipe, rng) if recipe.repair else None
    layers: dict[str, int] = {}
    for name, config in configs.items():
        LOG.info("formats: writing %s", name)
        with ofa.subnet(config):
            plain = ofa.export(config=config, repair=repair)
            layers[name] = len(only_stack(plain).blocks)
            forms = [*(recipe.formats if name in also else ()), *(("plain", INFERENCE) if name in uniform else ())]
            writer.write(name, plain, forms, ofa.model if repair is None else plain, config)
    LOG.info("formats: writing %s", SEARCHED)
    with ofa.subnet(best):
        chosen = searched(run, ofa, best, tokenizer, repair)
        writer.write(SEARCHED, chosen.model, recipe.formats, chosen.reference, best, chosen.tokenizer)
    times = writer.timed(timed_inputs(recipe, chosen.model.config.vocab_size, rng))
    subnets = []
    for name, (width, depth) in uniform.items():
        record = writer.records[name]
        opened = Opened(folder / name / INFERENCE)
        scores = {part: score_arrays(opened, rows, run.task, recipe.eval_batch_size) for part, rows in dev.items()}
        (latency_ms, *_) = (time["median"] for time in times[name, INFERENCE].values())
        LOG.info("%s exported: %s, %.2f ms", name, describe(scores), latency_ms)
        subnets.append(
            {
                "width": width,
                "depth_mult": depth,
                "layers": layers[name],
                "parameters": record["parameters"],
                "megabytes": record["formats"][INFERENCE]["files"]["model.pdiparams"]["bytes"] / 1e6,
                "scores": scores,
                "latency_ms": latency_ms,
            }
        )
    rows = writer.rows([ORIGINAL, *also, SEARCHED])
    (original_ms, *_) = (time["median"] for time in times[ORIGINAL, INFERENCE].values())
    write_json(
        folder / RESULTS,
        {"metric": run.task.metrics[0], "config": dict(best), **chosen.about, "rows": rows,
         "original_latency_ms": original_ms, "subnets": subnets},
    )  # fmt: skip


class ModelWriter:
    """Writes models into a folder, each checked and scored.

    Args:
        run: the run.
        folder: of the stage.
        tokenizer: its files are put beside every model that comes without one of its own.
        scored: the formats of models that are scored; None: those of the recipe.

    Attributes:
        records: the content of each model's ``export.json``, by the model's name.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        tokenizer: Any,
        scored: Sequence[str] | None = None,
    ) -> None:
        self._scored = set(run.recipe.formats if scored is None else scored)
        self._run = run
        self._folder = folder
        self._tokenizer = tokenizer
        self.records: dict[str, dict[str, Any]] = {}

    def write(
        self,
        name: str,
        model: nn.Layer,
        formats: Sequence[str],
        reference: nn.Layer,
        config: SubnetConfig | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Writes a model; it is scored in each format if it is written in all of `scored`.

        The rows that compare, calibrate and score it are those of its tokenizer.
        """
        run = self._run
        tokenizer = self._tokenizer if tokenizer is None else tokenizer
        train, dev = run.examples(tokenizer)
        scoring, calibration = next(iter(dev.values())), _spread(train)
        task = TextTask(run.task.name, run.task.labels, run.recipe.max_length, run.task.pairs, run.task.form)

        def score(opened: Any) -> float:
            return score_arrays(opened, scoring, run.task, run.recipe.eval_batch_size)[run.task.metrics[0]]

        self.records[name] = write_formats(
            model, self._folder / name, formats=list(dict.fromkeys(formats)), reference=reference, config=config,
            score=score if self._scored <= set(formats) else None, samples=_spread(scoring) + calibration,
            calibration=calibration, tolerance=run.recipe.tolerance, tokenizer=tokenizer, task=task.to_dict(),
        )  # fmt: skip

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """What is known of some models in each of the recipe's formats, once they were timed."""
        return [
            {"model": name, "format": form, "parameters": self.records[name]["parameters"]}
            | {key: self.records[name]["formats"][form][key] for key in ("score", "bytes", "difference", "latency_ms")}
            for name in names
            for form in self._run.recipe.formats
        ]

    def timed(self, inputs: Sequence[dict[str, np.ndarray]]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
        """The times of all models in all their formats, in turns; they are put into the records too.

        Models without a score are timed on the first of the inputs alone.
        """
        rounds = self._run.recipe.latency_rounds
        paths = {
            (name, form): self._folder / name / form
            for name, record in self.records.items()
            for form in record["formats"]
            if form == INFERENCE or "score" in record["formats"][form]
        }
        LOG.info("formats: timing %d models in turns", len(paths))
        brief = {(name, form) for name, form in paths if "score" not in self.records[name]["formats"][form]}
        rule = replace(SERVED, least=min(SERVED.least, rounds), most=rounds)
        times = time_models(paths, inputs, rule, brief=brief)
        for name, record in self.records.items():
            for form, entry in record["formats"].items():
                entry["latency_ms"] = times.get((name, form), {})
            write_json(self._folder / name / "export.json", record)
        return times


def calibration_batches(train: Examples, recipe: Recipe, rng: np.random.Generator) -> list[Batch]:
    """Batches of training rows without labels, at least two, as repair holds some back."""
    chosen = train.take(rng.permutation(len(train))[: recipe.calibration_rows])
    size = min(recipe.eval_batch_size, max(1, len(chosen) // 2))
    return [inputs_of(batch) for batch in Batches(chosen, size, rng)]


def _spread(examples: Examples, rows: int = 96, size: int = 16) -> list[dict[str, np.ndarray]]:
    """Batches of several lengths, with padding."""
    chosen = examples.take(np.arange(len(examples))[:rows])
    return [arrays(batch) for batch in Batches(chosen, size)]
