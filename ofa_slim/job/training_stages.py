"""The stages that train and score: fine-tuning, importance, reordering, the supernet, its sub-networks."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors.numpy import load_file, save_file

from ofa_slim.base.progress import counted
from ofa_slim.closed_form import Calibration, measure_curves, statistics
from ofa_slim.closed_form.order import importance_of
from ofa_slim.errors import RecipeError
from ofa_slim.export.factorise import largest_rank
from ofa_slim.job.chosen import check_vocabulary
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.run import Run, count_parameters, describe, subnet_name
from ofa_slim.job.search_stage import CURVES, check_budget
from ofa_slim.job.stage_folders import RESULTS, write_json
from ofa_slim.ofa import OFA
from ofa_slim.ordering.scores import reorder_neuron_head
from ofa_slim.train import parallel
from ofa_slim.train.batches import LABELS, Batches, inputs_of
from ofa_slim.train.builders import Teaching, elastic_blocks, strategy_of
from ofa_slim.train.fitting import finetune, train_supernet
from ofa_slim.train.stack_layers import block_importance
from ofa_slim.train.task_losses import TaskLosses

LOG = logging.getLogger(__name__)

CURVE_ROWS = 128

UNTRACEABLE = {"RobertaForTokenClassification": "ERNIE, BERT and ELECTRA can", "LlamaForCausalLM": "GPT can"}
"""Models whose forward Paddle 3.3.1 cannot convert, and those of the same task that it can."""


def run_finetune(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Fine-tunes the classifier, unless the recipe names one that is fine-tuned already, and scores it."""
    recipe = run.recipe
    model, tokenizer = run.original()
    check_model(recipe, model)
    check_vocabulary(run, model, tokenizer)
    train, dev = run.examples(tokenizer)
    if "search" in run.stages and parallel.is_writer():
        with parallel.alone():
            check_budget(run, model)
    if recipe.finetuned_dir is None:
        with run.scalars() as scalars:
            schedule = run.schedule(recipe.epochs, recipe.learning_rate)
            finetune(model, train, run.task.kind, schedule, rng, run.options("finetune", "epochs", scalars))
    scores = run.scores(model, dev)
    LOG.info("fine-tuned: %s", describe(scores))
    if parallel.is_writer():
        save_classifier(model, tokenizer, folder)
        write_json(folder / RESULTS, {"scores": scores, "parameters": count_parameters(model)})


def check_model(recipe: Recipe, model: paddle.nn.Layer) -> None:
    """Refuses keys that do not fit the model: lengths, widths that cut a head in two, a rank that saves nothing.

    Raises: RecipeError that names the key, its value and what is possible.
    """
    if type(model).__name__ in UNTRACEABLE:
        raise RecipeError(
            f"key 'task' is {recipe.task!r}: {type(model).__name__} of PaddleNLP cannot be converted to a program, so "
            f"it could be trained but not be written for Paddle Inference or ONNX; {UNTRACEABLE[type(model).__name__]}"
        )
    config, most_tokens = model.config, positions(model.config)
    for key in ("max_length", "latency_length"):
        if getattr(recipe, key) > most_tokens:
            raise RecipeError(f"key {key!r} is {getattr(recipe, key)}, but the model has {most_tokens} positions")
    heads = config.num_attention_heads
    for key in ("widths", "format_widths"):
        for width in getattr(recipe, key):
            if abs(width * heads - round(width * heads)) > 1e-6 or round(width * heads) < 1:
                possible = ", ".join(f"{count}/{heads}" for count in range(1, heads + 1))
                raise RecipeError(
                    f"key {key!r} has {width:g}, which is {width * heads:.3g} of the model's {heads} attention heads; "
                    f"widths that keep whole heads are {possible}"
                )
    if recipe.embedding_rank is not None:
        most = largest_rank(config.vocab_size, config.hidden_size)
        if recipe.embedding_rank > most:
            raise RecipeError(
                f"key 'embedding_rank' is {recipe.embedding_rank}, which saves nothing in a table of "
                f"{config.vocab_size} x {config.hidden_size}; it can be at most {most}"
            )


def positions(config: Any) -> int:
    """How many tokens a model of PaddleNLP can tell apart by their place."""
    most = int(config.max_position_embeddings)
    # These number their tokens from the one after the padding's id.
    return most - int(config.pad_token_id) - 1 if config.model_type in ("roberta", "mpnet") else most


def run_importance(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Scores heads and neurons on training rows, so that the rows that score models stay unseen."""
    model, tokenizer = run.classifier("finetune")
    train, _ = run.examples(tokenizer)
    rows = rng.permutation(len(train))[: run.recipe.importance_rows]
    batches = Batches(train.take(rows), run.recipe.batch_size)
    heads: paddle.Tensor | list[paddle.Tensor]
    if run.recipe.order == "obs":
        calibration = Calibration(model, map(inputs_of, batches), rows=None)
        found = statistics(model, calibration)
        removals = found.removals(model)
        heads, neurons = importance_of(model, found, removals)
        curves = measure_curves(model, calibration.part(CURVE_ROWS), found, removals)
        write_json(folder / CURVES, [asdict(curve) for curve in curves])
    else:
        heads, neurons = block_importance(model, TaskLosses(run.task.kind, (LABELS,)), batches, run.task.name)
    kinds: dict[str, paddle.Tensor | list[paddle.Tensor]] = {"heads": heads, "neurons": neurons}
    by_layer = {f"{kind}.{layer}": one.numpy() for kind, scores in kinds.items() for layer, one in enumerate(scores)}
    save_file(by_layer, folder / "importance.safetensors")


def run_reorder(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Puts the most important heads and neurons first."""
    model, tokenizer = run.classifier("finetune")
    scores = load_file(run.folder / "importance" / "importance.safetensors")
    heads, neurons = (
        [paddle.to_tensor(scores[f"{kind}.{layer}"]) for layer in range(len(scores) // 2)]
        for kind in ("heads", "neurons")
    )
    reorder_neuron_head(model, heads, neurons)
    save_classifier(model, tokenizer, folder)


def run_train(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Trains the supernet: phase 1 at full depth, phase 2 at every depth."""
    recipe = run.recipe
    teacher, tokenizer = run.classifier("reorder")
    model, _ = run.classifier("reorder")
    train, _ = run.examples(tokenizer)
    train = train.take(rng.permutation(len(train))[: recipe.supernet_rows])
    train = run.augmented(train, tokenizer, rng)
    cache = run.teacher_cache("train", train)
    distill = Teaching(teacher, lambda_distill=recipe.lambda_rep, cache=cache).config(model)
    ofa = OFA(model, elastic_blocks(model, recipe.widths, recipe.depth_mults), distill)
    phases = (
        ("widths", recipe.width_epochs, recipe.width_learning_rate, [1.0]),
        ("widths and depths", recipe.depth_epochs, recipe.depth_learning_rate, recipe.depth_mults),
    )
    with run.scalars() as scalars:
        for title, epochs, learning_rate, depth_mults in phases:
            space = ofa.search_space.with_depths(depth_mults)
            strategy = strategy_of(recipe.strategy, space, recipe.widths, depth_mults, recipe.random_subnets)
            options = run.options("train", title.replace(" ", "-"), scalars)
            options = replace(options, dropout=recipe.supernet_dropout)
            schedule = run.schedule(epochs, learning_rate)
            train_supernet(ofa, train, run.task.kind, schedule, rng, strategy, recipe.lambda_logit, options, title)
    if parallel.is_writer():
        save_classifier(model, tokenizer, folder)


def run_evaluate(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Scores every sub-network inside the supernet."""
    ofa, tokenizer = run.supernet()
    _, dev = run.examples(tokenizer)
    results = []
    for width, depth in counted(run.subnets(), "evaluating", "sub-networks", show=parallel.is_writer()):
        with ofa.subnet(ofa.search_space.uniform(width, depth)):
            scores = run.scores(ofa.model, dev)
        results.append({"width": width, "depth_mult": depth, "scores": scores})
        LOG.info("%s in the supernet: %s", subnet_name(width, depth), describe(scores))
    if parallel.is_writer():
        write_json(folder / RESULTS, results)


def save_classifier(model: paddle.nn.Layer, tokenizer: Any, folder: Path) -> None:
    """Writes PaddleNLP's layout with safetensors; a supernet's weights are those of the full model."""
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
