"""What the command line does with models outside a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim.base.json_files import read_json
from ofa_slim.errors import ConfigError, ExportError
from ofa_slim.export.formats import time_models
from ofa_slim.export.formats.opened import read_card
from ofa_slim.export.formats.pipeline import TWO, pipeline
from ofa_slim.integrations.paddlenlp import load_sequence_classifier
from ofa_slim.job.glue import TASKS, read_lines
from ofa_slim.job.run import random_tokens, score_arrays
from ofa_slim.job.tokenised import tokenise
from ofa_slim.measure import CostModel
from ofa_slim.ofa import OFA, dynabert_config
from ofa_slim.search.cost_kinds import COSTS, CostSources
from ofa_slim.supernet import SubnetConfig
from ofa_slim.train.builders import elastic_blocks


def evaluated(directory: Path, data_dir: Path, task: str | None, rows: int | None) -> dict[str, Any]:
    """The metrics of a written model on each set of its task."""
    opened = pipeline(directory)
    name = task or opened.task.name
    if name not in TASKS:
        raise ExportError(
            f"{directory} is of task {name!r}, which is not one of {', '.join(TASKS)}; name one with --task"
        )
    chosen = TASKS[name]
    if task is not None and chosen.labels != opened.task.labels:
        raise ExportError(
            f"{directory} is of task {opened.task.name} with labels {list(opened.task.labels)}; those of {task} are "
            f"{list(chosen.labels)}"
        )
    found = {}
    for part, given in chosen.read(data_dir)[1].items():
        examples = tokenise(
            opened.tokenizer, given.limited(rows), opened.task.max_length, tuple(opened.model.card["inputs"])
        )
        found[part] = {"rows": len(examples), **score_arrays(opened.model, examples, chosen, 64)}
    return found


def inspected(
    model: Path,
    num_classes: int,
    widths: str,
    width: float,
    depth: float,
    config: Path | None,
    length: int,
    allow_pickle: bool,
) -> str:
    """What is elastic in a classifier, and what a sub-network of it costs, as text."""
    shares = _shares(widths)
    layer, _ = load_sequence_classifier(str(model), num_classes, allow_pickle=allow_pickle)
    if length > layer.config.max_position_embeddings:
        raise ConfigError(f"--length is {length}, but the model has {layer.config.max_position_embeddings} positions")
    count = layer.config.num_hidden_layers
    ofa = OFA(layer, elastic_blocks(layer, shares, [kept / count for kept in range(1, count + 1)]))
    space = ofa.search_space
    lines = [f"{type(layer).__name__}: {space.explain()}", ""]
    chosen = ofa.subnet_config(dynabert_config(ofa, width, depth) if config is None else _sizes(config))
    costs = CostModel.of(ofa, [[1, length], [1, length]], ["int64", "int64"])
    whole, part = costs(space.largest()), costs(chosen)
    lines.append(f"cost of one input of {length} tokens     the whole   the sub-network   share")
    for kind in (kind for kind in COSTS.values() if not kind.measured):
        before, after = kind.value(CostSources(whole), space.largest()), kind.value(CostSources(part), chosen)
        digits = ",.2f" if isinstance(before, float) else ","
        lines.append(f"  {kind.name:<34} {before:>13{digits}} {after:>17{digits}}   {after / before:.3f}")
    return "\n".join(lines)


def timed(directories: Sequence[Path], batches: Sequence[int], length: int) -> str:
    """The latencies of written text models as a table."""
    for folder in directories:
        wanted = list(read_card(folder)["inputs"])
        if not {"input_ids", "token_type_ids"} >= set(wanted):
            raise ExportError(f"{folder} takes {', '.join(wanted)}; only models of token ids can be timed here")
    rng = np.random.default_rng(0)
    vocabulary = min(_vocabulary(folder) for folder in directories)
    inputs = [random_tokens(vocabulary, length, rng, rows) for rows in batches]
    times = time_models({str(folder): folder for folder in directories}, inputs)
    wide = max(len(name) for name in times)
    lines = [f"{'milliseconds':<{wide}}" + "".join(f"  {shape:>9}  {'p95':>9}" for shape in next(iter(times.values())))]
    for name, found in times.items():
        lines.append(
            f"{name:<{wide}}" + "".join(f"  {each['median']:>9.2f}  {each['p95']:>9.2f}" for each in found.values())
        )
    return "\n".join(lines)


def classified(directory: Path, texts: Sequence[str], lines: Path | None) -> list[dict[str, Any]]:
    """The answers for some texts, or for the lines of a file."""
    opened = pipeline(directory)
    given: list[Any] = list(texts) if lines is None else list(read_lines(lines))
    if opened.task.pairs or opened.task.form in TWO:
        given = [tuple(text.split("\t")) for text in given]
    return opened(given)


def _vocabulary(folder: Path) -> int:
    """How many token ids a written model surely knows."""
    file = folder / "vocab.txt"
    return len(file.read_bytes().splitlines()) if file.is_file() else 1000


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"--widths is {text!r}, not numbers separated by commas") from error
    if not shares or any(not 0 < share <= 1 for share in shares):
        raise ConfigError(f"--widths is {text!r}; each is above 0 and at most 1")
    return shares


def _sizes(file: Path) -> SubnetConfig:
    try:
        sizes = read_json(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not a JSON text file ({error})") from error
    if not isinstance(sizes, dict):
        raise ConfigError(f"{file}: not an object {{axis: size}}")
    sizes = sizes.get("config", sizes)
    if not isinstance(sizes, dict):
        raise ConfigError(f"{file}: 'config' is {sizes!r}, not an object {{axis: size}}")
    return SubnetConfig(sizes)
