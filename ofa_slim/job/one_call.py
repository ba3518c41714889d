"""`ofa_slim.compress`: from a model to a smaller one in one call, with training or without."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from paddle import nn

from ofa_slim.base.checks import check_kind, check_layer, check_whole, checked_path
from ofa_slim.base.modes import plain_forwards
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError
from ofa_slim.job.compressed import Compressed
from ofa_slim.job.distilling import Finish
from ofa_slim.job.with_training import Evaluate, Training, compress_with_training
from ofa_slim.job.without_training import compress_without_training
from ofa_slim.measure import LatencyTable
from ofa_slim.search.budget import Budget


def compress(
    model: nn.Layer,
    loader: Iterable[Any],
    eval_func: Evaluate | None = None,
    budget: Mapping[str, float] | None = None,
    training: Training | None = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    rows: int | None = 2048,
    curve_rows: int = 512,
    input_shapes: Any = None,
    input_dtypes: Any = None,
    latency: LatencyTable | None = None,
    engine: str = "inference",
    omit: bool = False,
    finish: Finish | None = None,
) -> Compressed:
    """A smaller model within a budget.

    With `eval_func` a supernet is trained, the original as its teacher, and searched; the model may be any that
    `Convert` takes. Without it nothing is trained: heads and neurons are removed in the order of Optimal Brain
    Surgeon, the sizes of all sub-layers are chosen by what the model's outputs lose when each is cut, and the output
    matrices are refitted by least squares; the model must be of a known family then.

    Args:
        model: a fine-tuned model; it stays as it is.
        loader: batches: dictionaries by the names of the model's forward (``labels`` may be in them), tuples of inputs,
            or single tensors. With training it has a length, and tuples may end with labels; without, some hundred
            rows already help and 2,048 are enough, see `closed_form.Calibration`.
        eval_func: ``eval_func(model)`` -> its score, the higher the better, or several by name, of which the first
            counts. It gets the original, sub-networks and the result, in eval mode.
        budget: limits: ``{"latency_ratio": 0.5}``, ``{"latency_ms": 8.0}``, ``{"flops_ratio": 0.5}``,
            ``{"params_ratio": 0.5}`` or others of `search.budget.KEYS`.
        training: how to train and search; None: `Training()` where there is an `eval_func`, else no training.
        directory: keeps measured times, checkpoints and the search; the same call goes on where it was stopped.
        rows: without training, how many rows to use at most.
        curve_rows: how many of them measure what each cut loses.
        input_shapes: of the call whose cost counts, as in `OFA.export`; by default one row as the first batch has it,
            or without training what `OFA.export` takes by default.
        input_dtypes: likewise.
        latency: times of this model's blocks; measured where a budget of time needs them and they are left out.
        engine: that will serve, in which they are measured then: ``"inference"``, ``"onnx"`` or ``"onnx-int8"``.
        omit: without training, whether whole attentions and feed-forward parts may be left out, where the model's
            family can do without them.
        finish: how the smaller model then trains alone, with the original as its teacher, over all of `loader`, which
            has a length then; None: it does not.

    Returns: the smaller model, with a report and `save`.

    Raises: ConfigError for arguments that do not go together; SearchError for a budget that no sub-network is within or
        an unknown limit; CalibrationError for rows that the model does not run on, and without training for models
        without known blocks and budgets below the smallest sizes; ExportError for a supernet.
    """
    check_layer(model, "model", ConfigError)
    check_whole(curve_rows, "curve_rows", 1, ConfigError)
    if latency is not None:
        check_kind(latency, LatencyTable, "latency", ConfigError)
    if directory is not None:
        checked_path(directory, "directory", ConfigError)
    if isinstance(eval_func, Mapping):
        raise ConfigError(
            f"the third argument is eval_func, a function of the model; name the other: budget={eval_func!r}"
        )
    if eval_func is not None and not callable(eval_func):
        raise ConfigError(f"eval_func is a {type(eval_func).__name__}, not a function of the model")
    if budget is None:
        raise ConfigError("compress needs a budget, such as budget={'latency_ratio': 0.5}")
    if training is not None and not isinstance(training, Training):
        raise ConfigError(f"training is {training!r}; it is None or ofa_slim.Training(...)")
    if finish is not None and not isinstance(finish, Finish):
        raise ConfigError(f"finish is {finish!r}; it is None or ofa_slim.Finish(...)")
    if omit and eval_func is not None:
        raise ConfigError("omit is for compression without training; with training give Training(widths=[..., 0])")
    if eval_func is None:
        if training is not None:
            raise ConfigError("training needs eval_func, a function of the model that returns its score")
        if directory is not None and finish is None and not Budget.of(budget).needs_latency:
            raise ConfigError("directory keeps measured times and trainings, and this call has none; use save")
    with plain_forwards(unwrap(model)):
        if eval_func is None:
            return compress_without_training(
                model, loader, budget, rows, curve_rows, input_shapes, input_dtypes, latency, engine, omit, finish,
                directory,
            )  # fmt: skip
        chosen = Training() if training is None else training
        return compress_with_training(
            model, loader, eval_func, budget, chosen, directory, input_shapes, input_dtypes, latency, engine, finish
        )
