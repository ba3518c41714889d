"""Distillation: `DistillConfig`, projections between unequal widths, and the loss over mapped layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.errors import ConfigError, DistillError
from ofa_slim.pickles import refusal
from ofa_slim.supernet.families import max_sizes
from ofa_slim.supernet.published import LayerNames
from ofa_slim.supernet.spec import spec_of
from ofa_slim.taps import Taps
from ofa_slim.teacher import Teacher
from ofa_slim.unwrap import unwrap

DistillFn = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]

MAPPING_OPS = ("linear", "conv", "conv2d")


@dataclass(frozen=True, eq=False)
class DistillConfig:
    """What the sub-networks learn from a teacher.

    Args:
        lambda_distill: weight of `OFA.calc_distill_loss`; None counts as 1.
        teacher_model: the teacher, any layer that takes the model's inputs. It runs in eval mode without
            gradients; its weights are never trained.
        mapping_layers: names of the layers whose outputs are matched, by attribute path (or by Paddle's
            full layer name in the student); or ``{layer of the student: layer of the teacher}``.
        teacher_model_path: weights to load into `teacher_model`: a `.safetensors` file, a directory with
            `model.safetensors`, a state dict, or, with `allow_pickle`, what `paddle.load` reads (`.pdparams`).
        distill_fn: ``distill_fn(student output, teacher output)`` -> scalar; mean squared error if None.
        mapping_op: a learned projection from the student's width to the teacher's: ``"linear"`` over the
            last dimension, ``"conv"`` or ``"conv2d"`` over dimension 1; None for none.
        allow_pickle: whether `teacher_model_path` may be a pickle. Reading one runs whatever code it holds: only
            from people you trust.

    Raises: ConfigError for values that cannot mean anything, and for a pickle without `allow_pickle`.
    """

    lambda_distill: float | None = None
    teacher_model: nn.Layer | None = None
    mapping_layers: Sequence[str] | Mapping[str, str] | None = None
    teacher_model_path: str | os.PathLike[str] | Mapping[str, Any] | None = None
    distill_fn: DistillFn | None = None
    mapping_op: str | None = None
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        """Checks what can be checked without the student."""
        weight = self.lambda_distill
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight < 0):
            raise ConfigError(f"lambda_distill {weight!r} is not a number of at least 0")
        if self.teacher_model is not None and not isinstance(self.teacher_model, nn.Layer):
            raise ConfigError(f"teacher_model is a {type(self.teacher_model).__name__}, not a paddle.nn.Layer")
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
        if self.teacher_model is None:
            for name in ("mapping_layers", "teacher_model_path", "distill_fn", "mapping_op"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} was given without a teacher_model")


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The file that a weights path names; raises `ConfigError` saying what was looked for."""
    given = Path(path)
    tried = [given, given / "model.safetensors", given.with_name(given.name + ".pdparams")]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"teacher_model_path {str(given)!r}: none of the files {', '.join(str(file) for file in tried)} is there"
    )


def load_teacher(config: DistillConfig) -> nn.Layer | None:
    """The teacher of a config with its weights loaded; None where there is none.

    Raises: ConfigError where the weights do not cover the teacher, or are no readable safetensors.
    """
    teacher, source = config.teacher_model, config.teacher_model_path
    if teacher is None or source is None:
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


class Projection(nn.Layer):
    """A learned map from the student's current width to the teacher's.

    Args:
        student_width: the student's full width, channels.
        teacher_width: the teacher's width, channels.
        over_channels: maps dimension 1 (a 1x1 convolution) instead of the last one.
    """

    def __init__(self, student_width: int, teacher_width: int, over_channels: bool) -> None:
        super().__init__()
        self.over_channels = over_channels
        self.weight = self.create_parameter([student_width, teacher_width])
        self.bias = self.create_parameter([teacher_width], is_bias=True)

    def forward(self, student: paddle.Tensor) -> paddle.Tensor:
        """Maps ``[..., width]`` (or ``[batch, width, ...]``), `width` at most the full one."""
        if self.over_channels:
            last = student.ndim - 1
            order = [0, *range(2, student.ndim), 1]
            back = [0, last, *range(1, last)]
            return self._map(student.transpose(order)).transpose(back)
        return self._map(student)

    def _map(self, student: paddle.Tensor) -> paddle.Tensor:
        return F.linear(student, self.weight[: student.shape[-1]], self.bias)


class Distiller:
    """Runs the teacher beside a student and compares the mapped layers.

    Args:
        config: what to learn.
        teacher: the teacher with its weights.
        student: the model that learns, unwrapped.

    Raises: ConfigError for a layer name that one of the two models does not have.
    """

    def __init__(self, config: DistillConfig, teacher: nn.Layer, student: nn.Layer) -> None:
        if unwrap(teacher) is student:
            raise ConfigError("teacher_model is the model itself; give a copy made before it was converted")
        self.config = config
        self.mapping = _mapping(config.mapping_layers, student, unwrap(teacher))
        students, teachers = LayerNames(student).layers, LayerNames(unwrap(teacher)).layers
        self._student_taps = Taps({name: students[name] for name in self.mapping})
        self._student_hidden: dict[str, paddle.Tensor] = {}
        self.teacher = Teacher(teacher, Taps({name: teachers[name] for name in self.mapping.values()}))
        self.projections: dict[str, Projection] = {}
        if config.mapping_op is not None:
            for name, teacher_name in self.mapping.items():
                self.projections[name] = Projection(
                    _output_width(name, students[name]),
                    _output_width(teacher_name, teachers[teacher_name]),
                    over_channels=config.mapping_op != "linear",
                )

    def parameters(self) -> list[paddle.Tensor]:
        """The projections' parameters."""
        return [parameter for layer in self.projections.values() for parameter in layer.parameters()]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the student's mapped layers while it runs inside the block."""
        self._student_hidden = {}
        with self._student_taps.record() as hidden:
            yield
        self._student_hidden = hidden

    def loss(self) -> paddle.Tensor:
        """The weighted sum over the mapped layers that ran; see `OFA.calc_distill_loss`."""
        if not self.mapping:
            raise DistillError("calc_distill_loss needs DistillConfig(mapping_layers=[...])")
        if not self._student_hidden:
            raise DistillError("calc_distill_loss was called before any forward, or no mapped layer ran in it")
        distance = self.config.distill_fn or F.mse_loss
        parts = []
        for name, student in self._student_hidden.items():
            # Whatever a layer dropped by the depth would have said is left out: it did not run.
            teacher = self.teacher.hidden[self.mapping[name]].detach()
            if name in self.projections:
                student = self.projections[name](student)
            if self.config.distill_fn is None and student.shape != teacher.shape:
                raise DistillError(
                    f"layer {name!r}: the student's output {list(student.shape)} and the teacher's "
                    f"{list(teacher.shape)} differ in shape; a mapping_op ({', '.join(MAPPING_OPS)}) maps one to "
                    "the other"
                )
            parts.append(distance(student, teacher))
        weight = 1.0 if self.config.lambda_distill is None else self.config.lambda_distill
        return paddle.add_n(parts) * weight


def _mapping(
    mapping_layers: Sequence[str] | Mapping[str, str] | None, student: nn.Layer, teacher: nn.Layer
) -> dict[str, str]:
    """``{path in the student: path in the teacher}``."""
    if not mapping_layers:
        return {}
    own, its = LayerNames(student), LayerNames(teacher)
    found = {}
    for name in mapping_layers:
        path = _layer_path(own, name, "student")
        other = mapping_layers[name] if isinstance(mapping_layers, Mapping) else path
        found[path] = _layer_path(its, other, "teacher")
    return found


def _layer_path(names: LayerNames, name: str, whose: str) -> str:
    # Scripts written for wrapped layers name the layer inside; here a layer is its own inside.
    name = name.removesuffix(".fn") if isinstance(name, str) else name
    try:
        return names.path(name)
    except ConfigError as error:
        raise ConfigError(f"mapping_layers: in the {whose}, {error}") from None


def _output_width(name: str, layer: nn.Layer) -> int:
    """The full output width of a layer: that of its last part with one."""
    for part in reversed(layer.sublayers(include_self=True)):
        spec, sizes = spec_of(part), max_sizes(part)
        if spec is not None and spec.width is not None and sizes is not None:
            return sizes[spec.width]
    raise ConfigError(f"mapping_op: the output width of layer {name!r} cannot be told from its parts")
