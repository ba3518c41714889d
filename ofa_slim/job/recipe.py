"""The recipe: every setting of a run, from a YAML file and the command line."""

from __future__ import annotations

import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ofa_slim.errors import RecipeError, nearest
from ofa_slim.export.formats import FORMATS
from ofa_slim.job.data.keys import OWN_TASKS, DataKeys, OwnTask
from ofa_slim.job.recipe_file import read_yaml
from ofa_slim.measure.programs import ENGINES
from ofa_slim.search.cost_kinds import COSTS, KEYS

TaskName = Literal["movie-polarity", "sst-2", "cola", "mrpc", "sts-b", "qnli", "rte", "qqp", "mnli", OwnTask]


def _number(value: object) -> object:
    """Reads 5e-5, which YAML reads as text because it has no dot."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
if typing.TYPE_CHECKING:
    CostKey: typing.TypeAlias = str
    FormatName: typing.TypeAlias = str
    EngineName: typing.TypeAlias = str
else:
    CostKey, FormatName, EngineName = Literal[KEYS], Literal[tuple(FORMATS)], Literal[tuple(ENGINES)]
Share = Annotated[Real, Field(gt=0, le=1)]
Rate = Annotated[Real, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_code(name: str) -> bool:
    """Whether a name is ``module:function``."""
    return _CODE.fullmatch(name) is not None


class Recipe(BaseModel):
    """All settings of a run, with their defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    task: TaskName = Field(
        "movie-polarity",
        description="the task to fine-tune and compress for: one of GLUE's, whose files are in data_dir, or a kind of "
        "task on the files of data",
    )
    data: DataKeys | None = Field(
        None,
        description="files of one's own: {train: my.csv, dev: other.csv, text: COLUMN, label: COLUMN}; "
        "docs/your-data.md has all keys",
    )
    data_dir: str = Field(
        "data/movie-polarity",
        description="folder with the task's data: the movie-review snippets, or the GLUE folder that holds "
        "SST-2, CoLA, ... with train.tsv and dev.tsv each",
    )
    output_dir: str = Field("runs/movie-polarity", description="folder that receives every stage's output")
    model_name_or_path: str = Field(
        "data/minilm",
        description="pre-trained encoder: a PaddleNLP or Hugging Face-layout directory with model.safetensors; with "
        "allow_pickle also a PaddleNLP hub name or a directory with model_state.pdparams",
    )
    finetuned_dir: str | None = Field(
        None, description="start from this fine-tuned classifier; model_name_or_path is then not used"
    )
    allow_pickle: bool = Field(
        False, description="whether those models may be pickles, which run whatever code they hold when they are read"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of every random choice except the data split")
    max_length: Annotated[int, Field(ge=8)] = Field(64, description="longer inputs are cut to this many tokens")
    train_rows: Count | None = Field(None, description="train on this many rows only, chosen at random once")
    eval_rows: Count | None = Field(None, description="score on this many rows only, chosen at random once")
    batch_size: Count = Field(32, description="rows per training batch")
    eval_batch_size: Count = Field(64, description="rows per scoring batch")

    epochs: Count = Field(3, description="epochs of fine-tuning")
    learning_rate: Rate = Field(5e-5, description="highest learning rate of fine-tuning")
    warmup: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.1, description="share of the steps over which a learning rate rises from 0; it then falls to 0"
    )
    weight_decay: Annotated[Real, Field(ge=0)] = Field(
        0.01, description="AdamW's weight decay; biases and norms have none"
    )
    accumulate: Count = Field(1, description="batches whose gradients add up to one step of the optimizer")
    amp: Literal["off", "bf16", "fp16"] = Field("off", description="mixed precision of training")
    checkpoint_every: Count = Field(100, description="training steps between two checkpoints")

    importance_rows: Count = Field(1000, description="training rows that heads and neurons are ranked on")
    order: Literal["gradient", "obs"] = Field(
        "gradient",
        description="what ranks heads and neurons: |parameter x gradient|, or Optimal Brain Surgeon, without labels, "
        "which also gives the search sizes to begin with",
    )

    training: Literal["supernet", "none"] = Field(
        "supernet",
        description="supernet: train one and search it; none: choose sizes within the budget and refit matrices, from "
        "calibration_rows without labels",
    )
    calibration_rows: Annotated[int, Field(ge=32)] = Field(
        2048, description="training rows, without labels, for training: none and for repair"
    )
    omit: bool = Field(
        False,
        description="with training: none, whether whole attentions and feed-forward parts may be left out, where the "
        "model's family can do without them",
    )
    widths: Annotated[list[Share], Field(min_length=1)] = Field(
        [1.0, 0.75, 0.5, 0.25], description="shares of heads and neurons that sub-networks keep"
    )
    depth_mults: Annotated[list[Share], Field(min_length=1)] = Field(
        [1.0], description="shares of layers that sub-networks keep"
    )
    supernet_rows: Count | None = Field(None, description="train the supernet on this many of the training rows only")
    strategy: Literal["uniform", "sandwich", "sampled"] = Field(
        "uniform",
        description="which sub-networks a batch trains: every width at every depth; the largest, the smallest and "
        "random_subnets between; or random_subnets alone (a random one has sizes of its own in each layer)",
    )
    random_subnets: Count = Field(2, description="random sub-networks per batch of the last two strategies")
    cache_teacher: bool = Field(
        False,
        description="keep the teacher's answers on disk and skip it from the second epoch on, also of finish_epochs",
    )
    augment_copies: Annotated[int, Field(ge=0)] = Field(
        0,
        description="for small training sets: further copies of each row, for the supernet and finish_epochs, in which "
        "some tokens are masked or are others; the teacher answers them too",
    )
    augment_share: Rate = Field(0.2, description="share of the tokens of such a copy that are changed")
    width_epochs: Annotated[int, Field(ge=0)] = Field(1, description="supernet epochs of phase 1: every width")
    depth_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="supernet epochs of phase 2: every width at every depth"
    )
    width_learning_rate: Rate = Field(5e-5, description="highest learning rate of phase 1")
    depth_learning_rate: Rate = Field(3e-5, description="highest learning rate of phase 2")
    supernet_dropout: bool = Field(
        True, description="whether layers of dropout and attentions drop in both phases, at the model's rates"
    )
    lambda_logit: Annotated[Real, Field(ge=0)] = Field(1.0, description="weight of the teacher's soft labels")
    lambda_rep: Annotated[Real, Field(ge=0)] = Field(1.0, description="weight of the teacher's hidden states")

    search_rows: Annotated[int, Field(ge=8)] = Field(
        1000, description="training rows that are held out of training, for the search to score on"
    )
    budget: dict[CostKey, Annotated[Real, Field(gt=0)]] = Field(
        {"latency_ratio": 0.5},
        description=f"what the searched sub-network may cost at most: any of {', '.join(COSTS)}, or with _ratio "
        "(latency_ratio) as a share of the original's cost",
    )
    search_candidates: Count = Field(200, description="sub-networks that the search scores, on a part of its rows")
    search_part: Annotated[int, Field(ge=8)] = Field(500, description="rows of that part; every class has its share")
    search_survivors: Count = Field(24, description="of those, how many it then scores on all of its rows")
    multiple_of: Count | None = Field(None, description="searched widths are multiples of so many neurons")

    finish_epochs: Annotated[int, Field(ge=0)] = Field(
        0,
        description="epochs that the chosen sub-network then trains alone on all training rows, with the fine-tuned "
        "model as its teacher; also with training: none",
    )
    finish_learning_rate: Rate = Field(1e-4, description="highest learning rate of these epochs")
    finish_trial_steps: Annotated[int, Field(ge=0)] = Field(
        100,
        description="with omit: steps for which sizes that keep all blocks, or fewer, are tried first; 0: those of all",
    )
    finish_dropout: bool = Field(
        False, description="whether layers of dropout and attentions drop in these epochs, at the model's rates"
    )

    formats: Annotated[list[FormatName], Field(min_length=1)] = Field(
        ["plain", "inference", "onnx", "onnx-int8"],
        description="what the original and the searched sub-network are written as: plain (safetensors and JSON), "
        "inference (Paddle Inference), onnx, onnx-int8 (dynamic quantisation), onnx-int8-static",
    )
    format_widths: list[Share] = Field([], description="uniform widths that are written in these formats too")
    embedding_rank: Count | None = Field(
        None,
        description="rank of the product that replaces the word embeddings of the searched sub-network in these "
        "formats; none: they stay whole",
    )
    vocabulary_coverage: Share | None = Field(
        None,
        description="share of the training texts' tokens that the vocabulary of the chosen sub-network keeps, 1.0 for "
        "all that occur; none: the whole vocabulary",
    )
    repair: bool = Field(
        False,
        description="whether the output matrices of written sub-networks are refitted to the whole supernet by least "
        "squares on training rows without labels; kept where held-back rows say that it helps",
    )
    tolerance: Annotated[Real, Field(ge=0, le=1)] = Field(
        0.015, description="how much of the metric an 8-bit format may lose, as a share"
    )

    latency_engine: EngineName = Field(
        "inference",
        description="engine that will serve, in which a budget of time is measured: inference (Paddle Inference), onnx "
        "or onnx-int8 (ONNX Runtime)",
    )
    latency_rows: Count = Field(1, description="rows of the input whose latency and operations a budget limits")
    latency_length: Annotated[int, Field(ge=2)] = Field(64, description="tokens of the input that is timed")
    latency_rounds: Annotated[int, Field(ge=3)] = Field(
        40, description="rounds in which the models are timed, at most; each has a turn in every round"
    )

    @model_validator(mode="after")
    def _keys_fit_each_other(self) -> Recipe:
        if self.omit and self.training != "none":
            raise ValueError(f"key 'omit' is for training: none; the training is {self.training!r}")
        if self.task in OWN_TASKS and self.data is None:
            raise ValueError(f"task {self.task!r} needs the key 'data', such as data: {{train: my.csv}}")
        if self.task not in OWN_TASKS and self.data is not None:
            raise ValueError(f"with 'data' the key 'task' is one of {', '.join(OWN_TASKS)}, not {self.task!r}")
        return self


def load_recipe(path: str | None, overrides: Mapping[str, object]) -> Recipe:
    """The recipe of a YAML file, with single keys replaced.

    Args:
        path: the YAML file; None for the defaults.
        overrides: values that replace those of the file.

    Raises: RecipeError with one line per wrong key.
    """
    values: dict[str, object] = {}
    if path is not None:
        values = read_yaml(Path(path))
        _check(values, path)
    return _check({**values, **overrides}, "command line")


def texts_to_values(texts: Mapping[str, str]) -> dict[str, object]:
    """Reads the texts of command-line options as values of the recipe's keys; lists are separated by commas."""
    values: dict[str, object] = {}
    for name, text in texts.items():
        annotation = Recipe.model_fields[name].annotation
        if typing.get_origin(annotation) is list:
            values[name] = [_scalar(part.strip()) for part in text.split(",") if part.strip()]
        elif typing.get_origin(annotation) is dict or DataKeys in typing.get_args(annotation):
            pairs = [part.partition("=") for part in text.split(",") if part.strip()]
            values[name] = {key.strip(): _scalar(value) for key, _, value in pairs}
        else:
            values[name] = text if _holds_text(annotation) else _scalar(text)
    return values


def commented(task: str | None = None) -> str:
    """A recipe as text, with every key, its default and its description."""
    lines = ["# A recipe of ofa-slim: every key with its default. Run it with: ofa-slim compress FILE"]
    for name, field in Recipe.model_fields.items():
        value = task if name == "task" and task is not None else field.default
        lines += ["", *textwrap.wrap(f"{field.description}", 110, initial_indent="# ", subsequent_indent="# ")]
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=200)
        lines.append(f"{name}: {text.removesuffix('...' + chr(10)).rstrip()}")
    return "\n".join(lines) + "\n"


def _check(values: Mapping[str, object], source: str) -> Recipe:
    """Validates; each problem becomes one line."""
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = str(problem["loc"][0]) if problem["loc"] else ""
            if not key:
                lines.append(f"{source}: {problem['msg'].removeprefix('Value error, ')}")
            elif problem["type"] == "extra_forbidden" and key == "data":
                inner = str(problem["loc"][1])
                lines.append(f"{source}: no key {inner!r} in 'data'{nearest(inner, DataKeys.model_fields)}")
            elif problem["type"] == "missing":
                lines.append(f"{source}: key {key!r} lacks {str(problem['loc'][1])!r}")
            elif problem["type"] == "extra_forbidden":
                lines.append(f"{source}: no key {key!r}{nearest(key, Recipe.model_fields)}")
            else:
                wanted = problem["msg"].replace("Input should be", "it should be", 1)
                lines.append(f"{source}: key {key!r} is {values.get(key)!r}; {_which(problem['loc'])}{wanted}")
        raise RecipeError("\n".join(dict.fromkeys(lines))) from error


def _which(place: Sequence[int | str]) -> str:
    """The key of a dictionary's wrong value, for the message."""
    inner = [part for part in place[1:] if part != "[key]"]
    return f"of {inner[0]!r} " if inner and isinstance(inner[0], str) else ""


def _scalar(text: str) -> object:
    """The value of an option's text, as YAML reads it; text that is not valid YAML stays text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _holds_text(annotation: Any) -> bool:
    """Whether a key holds text, so that `--output_dir 2024` stays text."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return any(_holds_text(part) for part in typing.get_args(annotation))
    return annotation is str or typing.get_origin(annotation) is Literal
