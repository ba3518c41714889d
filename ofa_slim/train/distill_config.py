"""`DistillConfig`: what sub-networks learn from a teacher, and where the teacher's weights are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import paddle
from paddle import nn

from ofa_slim.base.checks import checked_path
from ofa_slim.base.modes import undecorate
from ofa_slim.base.pickles import refusal
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError, nearest
from ofa_slim.supernet.layers import ElasticLayer
from ofa_slim.train.attention_relations import AttentionRelations
from ofa_slim.train.teacher import ENGINES, TeacherCache

DistillFn = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]

MAPPING_OPS = ("linear", "conv", "conv2d")
SELF = "self"


@dataclass(frozen=True, eq=False)
class DistillConfig:
    """What the sub-networks learn from a teacher.

    Args:
        lambda_distill: weight of `OFA.calc_distill_loss`; None counts as 1.
        teacher_model: the teacher, any layer that takes the model's inputs; it runs in eval mode without
            gradients, and its weights are never trained. Or ``"self"``: the supernet's largest sub-network
            teaches the others.
        mapping_layers: names of the layers whose outputs are matched, by attribute path (or by Paddle's
            full layer name in the student); or ``{layer of the student: layer of the teacher}``.
        teacher_model_path: weights to load into `teacher_model`: a `.safetensors` file, a directory with
            `model.safetensors`, a state dict, or, with `allow_pickle`, what `paddle.load` reads (`.pdparams`).
        distill_fn: ``distill_fn(student output, teacher output)`` -> scalar; mean squared error if None.
        mapping_op: a learned projection from the student's width to the teacher's: ``"linear"`` over the
            last dimension, ``"conv"`` or ``"conv2d"`` over dimension 1; None for none.
        teacher_engine: how the teacher runs: ``"dygraph"``, layer by layer, hooks included; ``"static"``, as a
            static graph; ``"inference"``, in Paddle Inference on the CPU; or ``"auto"``: in Paddle Inference on a
            CPU, as a static graph elsewhere, and layer by layer where the program's answers at the first two shapes
            are not the same.
        allow_pickle: whether `teacher_model_path` may be a pickle. Reading one runs whatever code it holds: only
            from people you trust.
        cache_teacher: keeps the teacher's answers on disk, so that it runs in the first epoch only; None keeps none.
        relations: what to learn from the teacher's attention beside its mapped layers, without projections; None for
            nothing.

    Raises: ConfigError for values that cannot mean anything, and for a pickle without `allow_pickle`.
    """

    lambda_distill: float | None = None
    teacher_model: nn.Layer | Literal["self"] | None = None
    mapping_layers: Sequence[str] | Mapping[str, str] | None = None
    teacher_model_path: str | os.PathLike[str] | Mapping[str, Any] | None = None
    distill_fn: DistillFn | None = None
    mapping_op: str | None = None
    teacher_engine: str = "auto"
    allow_pickle: bool = False
    cache_teacher: TeacherCache | None = None
    relations: AttentionRelations | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without the student."""
        weight = self.lambda_distill
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0):
            raise ConfigError(f"lambda_distill {weight!r} is not a number of at least 0")
        if self.teacher_model not in (None, SELF) and not isinstance(self.teacher_model, nn.Layer):
            raise ConfigError(f"teacher_model is {self.teacher_model!r}, neither a paddle.nn.Layer nor {SELF!r}")
        if self.teacher_engine not in ENGINES:
            raise ConfigError(
                f"teacher_engine {self.teacher_engine!r} is not one of {', '.join(ENGINES)}"
                f"{nearest(str(self.teacher_engine), ENGINES)}"
            )
        if self.mapping_op is not None and self.mapping_op not in MAPPING_OPS:
            raise ConfigError(f"mapping_op {self.mapping_op!r} is not one of {', '.join(MAPPING_OPS)} or None")
        if self.distill_fn is not None and not callable(self.distill_fn):
            raise ConfigError(f"distill_fn {self.distill_fn!r} cannot be called")
        if isinstance(self.mapping_layers, str) or not isinstance(self.mapping_layers, (Sequence, Mapping, type(None))):
            raise ConfigError(f"mapping_layers {self.mapping_layers!r} is not a list or dictionary of layer names")
        if isinstance(self.teacher_model_path, (str, os.PathLike)):
            file = weights_file(self.teacher_model_path)
            # Whatever is no safetensors file goes to paddle.load, which unpickles.
            if file.suffix != ".safetensors" and not self.allow_pickle:
                raise ConfigError(f"teacher_model_path: {refusal(file)}")
        if self.teacher_engine not in ("auto", "dygraph") and not isinstance(self.teacher_model, nn.Layer):
            raise ConfigError(f"teacher_engine {self.teacher_engine!r} was given without a teacher_model of its own")
        if self.teacher_model == SELF and self.teacher_model_path is not None:
            raise ConfigError(f"teacher_model_path was given, but the teacher is {SELF!r}")
        if not isinstance(self.cache_teacher, (TeacherCache, type(None))):
            raise ConfigError(f"cache_teacher {self.cache_teacher!r} is not a TeacherCache or None")
        if self.teacher_model == SELF and self.cache_teacher is not None:
            raise ConfigError(f"cache_teacher was given, but the teacher is {SELF!r}, which learns with every step")
        if not isinstance(self.relations, (AttentionRelations, type(None))):
            raise ConfigError(f"relations {self.relations!r} is not an AttentionRelations or None")
        if self.teacher_model is None:
            names = ("mapping_layers", "teacher_model_path", "distill_fn", "mapping_op", "cache_teacher", "relations")
            for name in names:
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} was given without a teacher_model")


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The file that a weights path names; raises `ConfigError` saying what was looked for."""
    given = checked_path(path, "teacher_model_path", ConfigError)
    tried = [given, given / "model.safetensors", given.with_name(given.name + ".pdparams")]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"teacher_model_path {str(given)!r}: none of the files {', '.join(str(file) for file in tried)} is there"
    )


def load_teacher(config: DistillConfig) -> nn.Layer | None:
    """The teacher of a config with its weights loaded; None where there is none besides the model itself.

    Raises: ConfigError where the weights do not cover the teacher, or are no readable safetensors.
    """
    teacher, source = config.teacher_model, config.teacher_model_path
    if not isinstance(teacher, nn.Layer):
        return None
    if any(isinstance(layer, ElasticLayer) and layer.cut for layer in unwrap(teacher).sublayers(include_self=True)):
        raise ConfigError(
            "teacher_model is a supernet that runs one of its sub-networks; copy the model before it is converted, or "
            "export the sub-network that is to teach"
        )
    undecorate(unwrap(teacher))
    if source is None:
        return teacher
    if isinstance(source, Mapping):
        state = dict(source)
    else:
        file = weights_file(source)
        if file.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.paddle import load_file

            try:
                state = load_file(str(file))
            except SafetensorError as error:
                raise ConfigError(f"teacher_model_path {file}: not a readable safetensors file ({error})") from error
        else:
            state = paddle.load(str(file))
    own = unwrap(teacher).state_dict()
    missing = [key for key in own if key not in state]
    wrong = [key for key in own if key in state and list(own[key].shape) != list(state[key].shape)]
    if missing or wrong:
        raise ConfigError(
            "teacher_model_path does not fit the teacher: "
            + "; ".join(
                f"{what} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
                for what, keys in (("missing", missing), ("of another shape", wrong))
                if keys
            )
        )
    unwrap(teacher).set_state_dict(state)
    return teacher
