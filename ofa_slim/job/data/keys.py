"""The recipe's key ``data``: which files hold the rows, and which columns hold what."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

OwnTask = Literal[
    "classification", "pairs", "multi_label", "regression", "tokens", "question_answering", "spans",
    "language_modelling",
]  # fmt: skip
OWN_TASKS: tuple[str, ...] = typing.get_args(OwnTask)
UNLABELLED = ("regression", "question_answering", "spans", "language_modelling")
"""The tasks whose outputs are not named labels."""


def _listed(value: object) -> object:
    """A single name as a list of one."""
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]


class DataKeys(BaseModel):
    """Files and columns of one's own data."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    train: str = Field(description="file with the training rows: .csv, .tsv, .jsonl, .json, .parquet, .conll or .txt")
    dev: str | None = Field(None, description="file with the rows to score on; none: they are split off")
    dev_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of the training rows that is split off where there is no dev"
    )
    text: str = Field("text", description="column with the text")
    pair: str | None = Field(None, description="column with the second text of a pair")
    label: Names = Field(["label"], description="column with the label; several columns of 0 and 1 for multi_label")
    labels: list[str] | None = Field(None, description="the labels in the model's order; none: those of train, sorted")
    separator: Annotated[str, Field(min_length=1)] = Field(
        "|", description="what separates the labels in a cell of multi_label"
    )
    tokens: str = Field("tokens", description="column with the list of tokens of a row")
    tags: str = Field("tags", description="column with the list of their tags")
    question: str | None = Field(None, description="column with the question; none: question, of spans prompt")
    context: str | None = Field(
        None, description="column with the text that holds the answer or the spans; none: context, of spans content"
    )
    answers: str | None = Field(
        None, description="column with the answers, each a text of the context; none: answers, of spans result_list"
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="what separates the columns of a .csv; none: a comma"
    )
