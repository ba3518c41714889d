"""A recipe for a data file and a model: columns, lengths, rows and widths that fit them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ofa_slim.base.foreign import model_config
from ofa_slim.errors import DataError
from ofa_slim.integrations.paddlenlp import ModelLoadError, load_tokenizer
from ofa_slim.job.data.keys import DataKeys
from ofa_slim.job.data.own import ASKED, PAIR, own_task
from ofa_slim.job.data.tables import Table, read_table
from ofa_slim.job.recipe import Recipe, load_recipe
from ofa_slim.job.tokenised import tokenise
from ofa_slim.job.training_stages import positions

TEXTS = ("text", "sentence", "body", "content", "review", "message", "question", "sentence1", "text_a", "query")
PAIRS = (PAIR, "sentence2", "text_b", "text2")
LABELS = ("label", "labels", "class", "category", "topic", "intent", "target", "sentiment", "tag")
BY_NAMES = {"tokens": {"tokens", "tags"}, **{kind: set(columns) for kind, columns in ASKED.items()}}
WORDS = {
    "regression": "a number",
    "answers": "a question, and where its context answers it",
    "spans": "a prompt, and the spans of its text that it asks for",
    "next": "a text, each token of which is to follow from those before",
}
MOST_LABELS = 0.5  # a column with a different value in more than this share of its rows holds no labels
SAMPLED_ROWS = 2000
LEAST_SEARCH_ROWS = 8
LENGTH_QUANTILE = 0.99
STEP = 8  # lengths are multiples of it
SHORT_RUN = 20_000  # rows up to which three epochs take no more than a few thousand steps


@dataclass(frozen=True)
class Proposal:
    """A recipe and the reasons of its values.

    Attributes:
        values: by key.
        reasons: in words, by key.
    """

    values: Mapping[str, Any]
    reasons: Mapping[str, str]

    @property
    def recipe(self) -> Recipe:
        """The recipe, with the defaults of all other keys."""
        return load_recipe(None, self.values)

    def text(self, duration: str) -> str:
        """The recipe as YAML, each value with its reason; first of all how long a run takes, in words."""
        lines = ["# A recipe of ofa-slim. Run it with: ofa-slim compress FILE", "# All keys: ofa-slim recipe"]
        lines.append(f"# On the machine that wrote it: {duration}")
        for key, value in self.values.items():
            reason = self.reasons.get(key, Recipe.model_fields[key].description or "")
            lines += ["", *textwrap.wrap(reason, 110, initial_indent="# ", subsequent_indent="# ")]
            text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
            lines.append(f"{key}: {text.removesuffix('...' + chr(10)).rstrip()}")
        return "\n".join(lines) + "\n"


def proposed(file: Path, model: str, given: Mapping[str, Any] | None = None) -> Proposal:
    """A recipe for a data file and a model's directory.

    Args:
        file: with training rows.
        model: the directory.
        given: values of the recipe's keys that are settled; of ``data`` single entries.

    Raises: DataError where the file's columns do not say which holds the texts or the labels; ModelLoadError.
    """
    settled = dict(given or {})
    data = {"train": str(file), **settled.pop("data", {})}
    table = read_table(file, data.get("delimiter"))
    kind = settled.get("task") or _kind_by_names(table.names)
    if kind not in BY_NAMES:
        needed = ("text",) if kind == "language_modelling" else ("text", "label")
        data = {**_columns(table, data, needed), **data}
    kind = kind or _kind(table, data)
    task = own_task(kind, DataKeys.model_validate(data))
    rows, dev = task.read(file.parent)
    tokenizer = load_tokenizer(model)
    form = "classification" if task.form == "next" else task.form  # the length of each text, not of all together
    lengths = tokenise(tokenizer, rows.limited(SAMPLED_ROWS), 1 << 20, ("input_ids",), form).lengths
    config = _config(model)
    length = int(np.quantile(lengths, LENGTH_QUANTILE))
    fitting = min(max(STEP, -(-length // STEP) * STEP), positions(config))
    held_out = min(1000, len(rows) // 5)
    if held_out < LEAST_SEARCH_ROWS:
        raise DataError(
            f"{file}: {len(table)} rows; the search needs at least {LEAST_SEARCH_ROWS} of its own, a fifth of the "
            "training rows"
        )
    widths, depths = _widths(config.num_attention_heads), _depths(config)
    labels = f"{len(task.labels)} labels ({', '.join(task.labels[:6])}{', ...' if len(task.labels) > 6 else ''})"
    values: dict[str, Any] = {
        "task": kind,
        "data": data,
        "model_name_or_path": model,
        "output_dir": f"runs/{file.stem}",
        "max_length": fitting,
        "latency_length": fitting,
        "batch_size": 32 if len(rows) >= 640 else 8,
        "epochs": 3 if len(rows) <= SHORT_RUN else 1,
        "widths": widths,
        "depth_mults": depths,
        "strategy": "sandwich",
        "width_epochs": (phase := 3 if len(rows) <= SHORT_RUN // 4 else 1),
        "depth_epochs": phase if len(depths) > 1 else 0,
        "search_rows": held_out,
        "search_part": max(8, held_out // 2),
        "budget": {"latency_ratio": 0.5},
        **settled,
    }
    reasons = {
        "task": f"What a row of the file has: {labels if task.labels else WORDS[task.form]}.",
        "data": f"{len(table)} rows; {len(dev['dev'])} of them are split off to score on. Columns of the file: "
        f"{', '.join(table.names)}.",
        "max_length": f"99 of 100 texts have at most {length} tokens, the longest has {int(lengths.max())}.",
        "widths": f"Shares of the model's {config.num_attention_heads} heads and of its neurons, in whole heads.",
        "depth_mults": f"Shares of the model's {config.num_hidden_layers} layers; fewer of them make short texts "
        "faster, where widths alone do little.",
        "search_rows": f"Held out of the {len(rows)} training rows, for the search to score on.",
    }
    return Proposal(values, reasons)


def _kind_by_names(names: Sequence[str]) -> str | None:
    """The kind of task whose columns are there by their usual names, or of a file of nothing but texts."""
    if tuple(names) == ("text",):
        return "language_modelling"
    return next((kind for kind, needed in BY_NAMES.items() if needed <= set(names)), None)


def _columns(table: Table, settled: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
    """The columns with the texts and the labels, by their names; of two columns by what they hold."""
    found: dict[str, Any] = {}
    for key, usual in (("text", TEXTS), ("label", LABELS), ("pair", PAIRS)):
        if key not in settled:
            name = next((column for one in usual for column in table.names if column.lower() == one), None)
            if name is not None:
                found[key] = name
    if len(table.names) == 2:
        for key, other in (("text", "label"), ("label", "text")):
            known = {**found, **settled}
            if key not in known and other in known:
                found[key] = next(column for column in table.names if column != known[other])
    if "label" not in needed:
        found = {key: column for key, column in found.items() if key in needed}
    for key in needed:
        if key not in {**found, **settled}:
            raise DataError(
                f"{table.path}, line 1: which of the columns {', '.join(map(repr, table.names))} holds the {key}? Say "
                f"--data {key}=COLUMN"
            )
    if found.get("pair") in ({**found, **settled}[key] for key in needed):
        del found["pair"]
    return found


def _kind(table: Table, data: Mapping[str, Any]) -> str:
    """The kind of task that the labels look like."""
    if isinstance(data["label"], list) and len(data["label"]) > 1:
        return "multi_label"
    cells = table.column(data["label"] if isinstance(data["label"], str) else data["label"][0], "label")
    if any(isinstance(cell, list) or (isinstance(cell, str) and "|" in cell) for cell in cells):
        return "multi_label"
    if len({str(cell) for cell in cells}) > max(20, MOST_LABELS * len(cells)) or any(_fraction(cell) for cell in cells):
        return "regression"
    return "pairs" if "pair" in data else "classification"


def _fraction(cell: Any) -> bool:
    """Whether a cell is a number that is not whole."""
    try:
        return not float(cell).is_integer()
    except (TypeError, ValueError, OverflowError):
        return False


def _widths(heads: int) -> list[float]:
    """About 1, 3/4, 1/2 and 1/4 of the heads, in whole heads."""
    counts = sorted({max(1, round(heads * share)) for share in (1.0, 0.75, 0.5, 0.25)}, reverse=True)
    return [count / heads for count in counts]


def _depths(config: Any) -> list[float]:
    """All layers, and about 2/3 of them where the model can do with fewer."""
    layers = config.num_hidden_layers
    fewer = round(layers * 2 / 3)
    return [1.0] if fewer in (0, layers) or config.model_type == "albert" else [1.0, round(fewer / layers, 4)]


def _config(model: str) -> Any:
    """PaddleNLP's config of a model's directory."""
    from paddlenlp.transformers import AutoConfig, BertConfig

    described = model_config(Path(model) / "config.json", ModelLoadError)
    kind = BertConfig if described.get("model_type", "bert") == "bert" else AutoConfig
    return kind.from_pretrained(model)
