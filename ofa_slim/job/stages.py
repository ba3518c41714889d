"""The stages of a run; each reads the folders of earlier ones and fills its own."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from tqdm import tqdm

from ofa_slim.base.predictor import Predictor
from ofa_slim.export.factorise import factorise_embeddings
from ofa_slim.export.formats import time_models, write_formats
from ofa_slim.export.pipeline import TextTask
from ofa_slim.export.static import to_static
from ofa_slim.export.subnet_files import load_subnet, save_subnet
from ofa_slim.job import latency
from ofa_slim.job.plan import STAGES, Stage, settings
from ofa_slim.job.run import Run, count_parameters, describe, subnet_name
from ofa_slim.job.stage_folders import MARK, StageError, check_mark, new_folder, read_json, write_json
from ofa_slim.job.tokenised import token_counts
from ofa_slim.job.training_stages import (
    RESULTS,
    run_evaluate,
    run_finetune,
    run_importance,
    run_reorder,
    run_train,
)
from ofa_slim.ofa import dynabert_config
from ofa_slim.search import SearchConfig, stratified
from ofa_slim.supernet import SubnetConfig
from ofa_slim.train import parallel
from ofa_slim.train.batches import LABELS, Batches, Examples, arrays
from ofa_slim.train.fitting import predicted
from ofa_slim.train.loop import StoppedError

LOG = logging.getLogger(__name__)

ORIGINAL, SEARCHED = "original", "searched"


def run_export(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Writes every sub-network, and the original, as models that stand alone."""
    original, _ = run.classifier("finetune")
    to_static(original, folder / ORIGINAL / "inference")
    ofa, tokenizer = run.supernet()
    for width, depth in tqdm(run.subnets(), desc="exporting", unit="subnet", dynamic_ncols=True):
        plain = ofa.export(
            config=dynabert_config(ofa, width, depth),
            input_shapes=[[2, 16], [2, 16]],
            input_dtypes=["int64", "int64"],
        )
        target = folder / subnet_name(width, depth)
        save_subnet(plain, target / "model")
        to_static(plain, target / "inference")
        tokenizer.save_pretrained(str(target / "tokenizer"))


def run_rescore(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Scores and times what was exported, as read back from its files."""
    exported = run.folder / "export"
    model, tokenizer = run.classifier("finetune")
    _, dev = run.examples(tokenizer)
    inputs = latency.random_input(model.config.vocab_size, run.recipe.latency_length, rng)
    names = [ORIGINAL, *(subnet_name(width, depth) for width, depth in run.subnets())]
    timed = {name: Predictor(exported / name / "inference", onednn=True) for name in names}
    milliseconds = latency.medians(timed, inputs, run.recipe.latency_rounds)
    results = []
    for width, depth in tqdm(run.subnets(), desc="re-scoring", unit="subnet", dynamic_ncols=True):
        name = subnet_name(width, depth)
        plain = load_subnet(exported / name / "model")
        scores = run.scores(plain, dev)
        results.append(
            {
                "width": width,
                "depth_mult": depth,
                "layers": len(plain.bert.encoder.layers),
                "parameters": count_parameters(plain),
                "megabytes": (exported / name / "inference" / "model.pdiparams").stat().st_size / 1e6,
                "scores": scores,
                "latency_ms": milliseconds[name],
            }
        )
        LOG.info("%s exported: %s, %.2f ms", name, describe(scores), milliseconds[name])
    write_json(folder / RESULTS, {"original_latency_ms": milliseconds[ORIGINAL], "subnets": results})


def run_search(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Finds the best sub-network within the budget, on rows that nothing has trained on."""
    recipe = run.recipe
    ofa, tokenizer = run.supernet()
    rows = run.search_examples(tokenizer)
    part = rows.take(stratified(_strata(rows.labels), min(recipe.search_part, len(rows))))
    directory = run.checkpoints("search")
    shape = [1, recipe.latency_length]
    config = SearchConfig(
        candidates=recipe.search_candidates, survivors=recipe.search_survivors, multiple_of=recipe.multiple_of,
        screen=search_score(run, part) if len(part) < len(rows) else None, seed=recipe.seed, directory=directory,
        input_shapes=[shape, shape], input_dtypes=["int64", "int64"], winners=0,
    )  # fmt: skip
    result = ofa.search(search_score(run, rows), {str(cost): most for cost, most in recipe.budget.items()}, config)
    if not result.complete:
        raise StoppedError("search: stopped; what it scored is kept, the same command goes on", signal.SIGINT)
    for name in ("report.md", "report.json", "pareto.png", "winner.png"):
        shutil.copyfile(directory / name, folder / name)
    best = result.best
    found = {"config": dict(best.config), "costs": dict(best.costs), "metrics": dict(best.metrics)}
    LOG.info("search: %d sub-networks scored; the best within the budget: %s", len(result.points), best.metrics)
    write_json(folder / RESULTS, found)


def search_score(run: Run, examples: Examples) -> Callable[[Any], dict[str, float]]:
    """Scores for a search: the mean probability of the right label, which depends less on luck; then the metrics."""

    def score(ofa: Any) -> dict[str, float]:
        logits, labels = predicted(ofa.model, Batches(examples, run.recipe.eval_batch_size))
        metrics = run.task.score(logits, labels)
        if run.task.regression:
            return metrics
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        right = chances[np.arange(len(labels)), labels] / chances.sum(-1)
        return {"probability": float(right.mean()), **metrics}

    return score


def _strata(labels: np.ndarray) -> np.ndarray:
    """Classes, or for regression ten groups of values."""
    if np.issubdtype(labels.dtype, np.integer):
        return labels
    return np.digitize(labels, np.quantile(labels, np.linspace(0.1, 0.9, 9)))


def run_formats(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Writes the original and the searched sub-network in every format, proves each, and times all in turns."""
    recipe = run.recipe
    original, tokenizer = run.classifier("finetune")
    ofa, _ = run.supernet()
    train, dev = run.examples(tokenizer)
    examples = next(iter(dev.values()))
    calibration = _spread(train)
    samples = _spread(examples) + calibration
    task = TextTask(run.task.name, run.task.labels, recipe.max_length, run.task.pairs)

    def score(model: Any) -> float:
        batches = Batches(examples, recipe.eval_batch_size)
        logits = np.concatenate([np.asarray(model(arrays(batch))[0]) for batch in batches])
        labels = np.concatenate([batch[LABELS].numpy() for batch in batches])
        return run.task.score(logits, labels)[run.task.metrics[0]]

    searched = read_json(run.folder / "search" / RESULTS)["config"]
    configs: dict[str, Any] = {f"width-{width:g}": dynabert_config(ofa, width) for width in recipe.format_widths}
    configs[SEARCHED] = SubnetConfig(searched)
    shared = {
        "formats": recipe.formats, "calibration": calibration, "score": score, "tolerance": recipe.tolerance,
        "tokenizer": tokenizer, "task": task.to_dict(),
    }  # fmt: skip
    embeddings: dict[str, Any] | None = None
    records = {ORIGINAL: write_formats(original, folder / ORIGINAL, samples, **shared)}
    for name, chosen in configs.items():
        LOG.info("formats: writing %s", name)
        config = ofa.subnet_config(chosen)
        with ofa.subnet(config):
            plain, reference = ofa.export(config=config), ofa.model
            if name == SEARCHED and recipe.embedding_rank is not None:
                # What is written is no longer what the supernet computes: it is scored as it is.
                counts = token_counts(train, original.config.vocab_size) + 1
                (factorised,) = factorise_embeddings(plain, recipe.embedding_rank, frequencies=counts)
                LOG.info("formats: %s", factorised)
                embeddings = factorised.to_dict()
                reference = plain
            records[name] = write_formats(plain, folder / name, samples, reference=reference, config=config, **shared)
    inputs = [latency.random_input(original.config.vocab_size, recipe.latency_length, rng, rows) for rows in (1, 32)]
    LOG.info("formats: timing %d models in turns", len(records) * len(recipe.formats))
    paths = {(name, form): folder / name / form for name in records for form in recipe.formats}
    times = time_models(paths, inputs)
    for name, record in records.items():
        for form, entry in record["formats"].items():
            entry["latency_ms"] = times[name, form]
        write_json(folder / name / "export.json", record)
    rows = [
        {"model": name, "format": form, "parameters": records[name]["parameters"], "latency_ms": times[name, form]}
        | {key: records[name]["formats"][form][key] for key in ("score", "bytes", "difference")}
        for name, form in paths
    ]
    found = {"metric": run.task.metrics[0], "config": dict(searched), "embeddings": embeddings, "rows": rows}
    write_json(folder / RESULTS, found)


def _spread(examples: Examples, rows: int = 96, size: int = 16) -> list[dict[str, np.ndarray]]:
    """Batches of several lengths, with padding."""
    chosen = examples.take(np.arange(len(examples))[:rows])
    return [arrays(batch) for batch in Batches(chosen, size)]


RUNNERS: dict[str, Callable[[Run, Path, np.random.Generator], None]] = {
    "finetune": run_finetune,
    "importance": run_importance,
    "reorder": run_reorder,
    "train": run_train,
    "evaluate": run_evaluate,
    "export": run_export,
    "rescore": run_rescore,
    "search": run_search,
    "formats": run_formats,
}


def run_stages(run: Run, names: Sequence[str], overwrite: bool, resume: bool = True) -> None:
    """Runs stages in order; those whose output is there are skipped.

    Args:
        run: the run.
        names: the stages.
        overwrite: whether to delete the output of the first of these stages and of all after it.
        resume: whether a stage that was stopped goes on from its checkpoint.

    Raises: StageError where an output was made with other settings, or an earlier stage's is missing.
    """
    order = list(STAGES)
    wanted = sorted(set(names), key=order.index)
    if overwrite and wanted and parallel.is_writer():
        for name in order[order.index(wanted[0]) :]:
            shutil.rmtree(run.folder / name, ignore_errors=True)
            shutil.rmtree(run.checkpoints(name), ignore_errors=True)
    parallel.barrier()
    for name in wanted:
        stage = STAGES[name]
        target = run.folder / name
        inputs = {earlier: _checked(run, STAGES[earlier], name) for earlier in stage.needs}
        if target.exists():
            _checked(run, stage, name)
            LOG.info("%s: skipped, its output is in %s", name, target)
        else:
            if not resume and parallel.is_writer():
                shutil.rmtree(run.checkpoints(name), ignore_errors=True)
            parallel.barrier()  # nobody goes on from what is being deleted
            if parallel.is_writer():
                _run_stage(run, stage, inputs)
            elif stage.shared:
                RUNNERS[name](run, target, _seeded(run, stage))
        parallel.barrier()


def _run_stage(run: Run, stage: Stage, inputs: dict[str, str]) -> None:
    """Runs a stage in the process that writes."""
    LOG.info("%s: started", stage.name)
    start = time.perf_counter()
    mark: dict[str, Any] = {
        "stage": stage.name,
        "id": uuid.uuid4().hex,
        "inputs": inputs,
        "settings": settings(run.recipe, stage),
    }
    with new_folder(run.folder / stage.name, mark) as folder:
        RUNNERS[stage.name](run, folder, _seeded(run, stage))
        mark["seconds"] = round(time.perf_counter() - start, 1)
        mark["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    shutil.rmtree(run.checkpoints(stage.name), ignore_errors=True)
    LOG.info("%s: done in %.0f s", stage.name, mark["seconds"])


def _seeded(run: Run, stage: Stage) -> np.random.Generator:
    """Paddle's seed set, and a generator, for a stage; the same in every process."""
    number = [*STAGES].index(stage.name)
    paddle.seed(run.recipe.seed + number)
    return np.random.default_rng([run.recipe.seed, number])


def _checked(run: Run, stage: Stage, asked_by: str) -> str:
    """The id of a stage's output, after checking that it belongs to this recipe and to the inputs there."""
    target = run.folder / stage.name
    if not target.exists():
        raise StageError(f"{asked_by} needs the output of {stage.name}, but {target} is not there: run it as well")
    check_mark(target, settings(run.recipe, stage))
    mark = read_json(target / MARK)
    for earlier, made_from in mark["inputs"].items():
        present = run.folder / earlier / MARK
        if not present.is_file() or read_json(present)["id"] != made_from:
            raise StageError(
                f"{target} was made from another {earlier} than the one in {run.folder}. "
                "Add --overwrite to make it anew, or use another --output_dir"
            )
    return str(mark["id"])
