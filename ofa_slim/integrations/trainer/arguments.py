"""`OFAArguments`: the settings of a supernet training beside PaddleNLP's `TrainingArguments`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import List, Optional  # noqa: UP035  # PaddleNLP's parser knows only these forms

from ofa_slim.base.checks import check_whole
from ofa_slim.errors import ConfigError, nearest
from ofa_slim.train.builders import STRATEGIES
from ofa_slim.train.stack_layers import ALL, NONE
from ofa_slim.train.teacher import ENGINES

ORIGINAL = "original"
TEACHERS = (ORIGINAL, "self", NONE)


@dataclass
class OFAArguments:
    """The settings of a supernet training, for `paddlenlp.trainer.PdArgumentParser` or made by hand.

    Attributes:
        widths: shares of attention heads and feed-forward neurons; each is evaluated and exported at every depth.
        depths: shares of layers.
        strategy: which sub-networks a batch trains: ``uniform``, every width at every depth; ``sandwich``, the largest,
            the smallest and random ones between; ``sampled``, random ones. The last two know the whole model as well,
            also where 1.0 is not among the widths and depths.
        subnets: how many random ones.
        teacher: ``original``, the model as it was given; ``self``, the largest sub-network; or ``none``.
        teacher_engine: how the original runs; see `ofa_slim.DistillConfig`.
        lambda_logit: weight of the distillation of the outputs.
        lambda_distill: weight of the distillation of hidden layers.
        lambda_task: weight of the task's own loss beside a teacher.
        temperature: divides student's and teacher's logits.
        mapped_layers: the hidden layers to match: ``all`` (the embeddings and every block), ``none``, or any of
            ``embeddings``, the numbers of blocks, and attribute paths.
        importance: whether heads and neurons are put in order of importance before the training.
        importance_batches: how many batches of the evaluation (or else training) data score them; 0: all.

    Raises: ConfigError for values that cannot mean anything for any model.
    """

    widths: List[float] = field(  # noqa: UP006  # as above
        default_factory=lambda: [1.0, 0.75, 0.5], metadata={"help": "shares of heads and neurons"}
    )
    depths: List[float] = field(  # noqa: UP006  # as above
        default_factory=lambda: [1.0], metadata={"help": "shares of layers"}
    )
    strategy: str = field(
        default="uniform", metadata={"help": "which sub-networks a batch trains", "choices": STRATEGIES}
    )
    subnets: int = field(default=2, metadata={"help": "random sub-networks of a batch, for sandwich and sampled"})
    teacher: str = field(default=ORIGINAL, metadata={"help": "who teaches", "choices": TEACHERS})
    teacher_engine: str = field(default="auto", metadata={"help": "how the original runs", "choices": ENGINES})
    lambda_logit: float = field(default=1.0, metadata={"help": "weight of the outputs' distillation"})
    lambda_distill: float = field(default=0.1, metadata={"help": "weight of the hidden layers' distillation"})
    lambda_task: float = field(default=0.0, metadata={"help": "weight of the task's own loss beside a teacher"})
    temperature: float = field(default=1.0, metadata={"help": "divides student's and teacher's logits"})
    mapped_layers: Optional[List[str]] = field(  # noqa: UP006, UP045  # as above
        default=None, metadata={"help": "hidden layers to match: all (the default), none, embeddings, numbers, paths"}
    )
    importance: bool = field(default=True, metadata={"help": "order heads and neurons by importance first"})
    importance_batches: int = field(default=0, metadata={"help": "batches that score them; 0: all"})

    def __post_init__(self) -> None:
        """Checks what can be checked without a model."""
        for name in ("widths", "depths"):
            _check_shares(name, getattr(self, name))
        for name, allowed in (("strategy", STRATEGIES), ("teacher", TEACHERS), ("teacher_engine", ENGINES)):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} {value!r} is not one of {', '.join(allowed)}{nearest(str(value), allowed)}")
        for name in ("lambda_logit", "lambda_distill", "lambda_task"):
            _check_number(name, getattr(self, name))
        _check_number("temperature", self.temperature)
        if self.temperature == 0:
            raise ConfigError("temperature 0 would divide by zero")
        for name in ("subnets", "importance_batches"):
            value = getattr(self, name)
            check_whole(value, name, 0, ConfigError)
            setattr(self, name, int(value))
        if self.teacher == NONE:
            # Without a teacher the task's own loss is the only one.
            self.lambda_task = self.lambda_task or 1.0
        elif not (self.lambda_logit or self.lambda_distill or self.lambda_task):
            raise ConfigError("lambda_logit, lambda_distill and lambda_task are all 0: nothing would be learnt")
        layers = self.mapped_layers
        if layers is not None:
            if isinstance(layers, str) or not layers:
                raise ConfigError(f"mapped_layers {layers!r} is not a list with at least one entry; say ['none']")
            if len(layers) > 1 and {ALL, NONE} & set(layers):
                raise ConfigError(f"mapped_layers {layers!r}: 'all' and 'none' stand alone")


def _check_shares(name: str, shares: Sequence[float]) -> None:
    if isinstance(shares, str) or not isinstance(shares, Sequence) or not shares:
        raise ConfigError(f"{name} {shares!r} is not a list with at least one share")
    for share in shares:
        _check_number(name, share)
        if not 0 < share <= 1:
            raise ConfigError(f"{name}: {share!r} is not a share above 0 and at most 1")
    if len(set(shares)) < len(shares):
        raise ConfigError(f"{name} {list(shares)} names a share twice")


def _check_number(name: str, value: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name}: {value!r} is not a number of at least 0")
