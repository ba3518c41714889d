"""The kind of task of one of PaddleNLP's models."""

from __future__ import annotations

from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.errors import ConfigError
from ofa_slim.tasks import (
    LanguageModelling,
    MultiLabelClassification,
    QuestionAnswering,
    Regression,
    SequenceClassification,
    SpanScoring,
    TaskKind,
    TokenClassification,
)
from ofa_slim.tasks.token_classification import is_entity


def kind_of(model: nn.Layer, dataset: Any = None) -> TaskKind:
    """The kind of task that the name of a model's class says.

    Raises: ConfigError for another class.
    """
    name = type(model).__name__
    config = getattr(model, "config", None)
    if name.endswith("ForSequenceClassification"):
        if getattr(config, "num_labels", None) == 1:
            return Regression()
        return MultiLabelClassification() if _several_labels(dataset) else SequenceClassification()
    if name.endswith("ForTokenClassification"):
        return TokenClassification(_tags(config))
    if name.endswith("ForQuestionAnswering"):
        return QuestionAnswering()
    if name == "UIE":
        return SpanScoring()
    if name in ("GPTForCausalLM", "GPTLMHeadModel", "GPTForPretraining"):
        return LanguageModelling(shift=False)  # its own loss compares logits and labels at the same position
    raise ConfigError(
        f"{name} does not say which kind of task it is for; give OFATrainer(task=...), one of ofa_slim.tasks"
    )


def classes_of(model: nn.Layer) -> int | None:
    """How many classes one of PaddleNLP's classifiers has; None for other models."""
    if not type(model).__name__.endswith(("ForSequenceClassification", "ForTokenClassification")):
        return None
    count = getattr(getattr(model, "config", None), "num_labels", None)
    return count if isinstance(count, int) else None


def _several_labels(dataset: Any) -> bool:
    """Whether the first row of a dataset has a list of labels; False where it cannot be looked at."""
    try:
        return np.ndim(dataset[0]["labels"]) == 1 and np.size(dataset[0]["labels"]) > 1
    except (TypeError, KeyError, IndexError, NotImplementedError):
        return False


def _tags(config: object) -> list[str]:
    """The names of the classes, if they are tags of entities."""
    names = getattr(config, "id2label", None) or {}
    tags = [str(names[key]) for key in sorted(names, key=int)]
    return tags if any(is_entity(tag) for tag in tags) else []
