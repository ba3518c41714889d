"""Kinds of tasks: loss, distillation of outputs, and metrics of each; padding and `IGNORED` labels never count."""

from ofa_slim.tasks.language_modelling import LanguageModelling
from ofa_slim.tasks.losses import IGNORED
from ofa_slim.tasks.multi_label import MultiLabelClassification
from ofa_slim.tasks.question_answering import QuestionAnswering, squad_metrics
from ofa_slim.tasks.regression import Regression
from ofa_slim.tasks.sequence_classification import SequenceClassification
from ofa_slim.tasks.span_scoring import SpanScoring
from ofa_slim.tasks.task_kind import TaskKind, padding_mask
from ofa_slim.tasks.token_classification import TokenClassification

__all__ = [
    "IGNORED",
    "LanguageModelling",
    "MultiLabelClassification",
    "QuestionAnswering",
    "Regression",
    "SequenceClassification",
    "SpanScoring",
    "TaskKind",
    "TokenClassification",
    "padding_mask",
    "squad_metrics",
]
