"""Distillation: projections between unequal widths, and the loss over mapped layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.base.nested import join, split, unsupported_leaf
from ofa_slim.base.taps import Taps
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError, DistillError
from ofa_slim.supernet.families import max_sizes
from ofa_slim.supernet.published import LayerNames
from ofa_slim.supernet.spec import spec_of
from ofa_slim.tasks.losses import mean_square
from ofa_slim.train.distill_config import MAPPING_OPS, DistillConfig
from ofa_slim.train.teacher import Answer, CachedEngine, OwnTeacher, Teacher, engine_of

__all__ = ["DistillConfig", "Distiller", "Projection"]

# Computes the largest sub-network's answer: ``(taps, args, kwargs)`` -> answer.
OwnAnswer = Callable[[Taps, tuple[Any, ...], dict[str, Any]], Answer]


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
    """Holds what the teacher answered beside a student and compares the mapped layers.

    Args:
        config: what to learn.
        teacher: the teacher with its weights; None where the student's largest sub-network teaches.
        student: the model that learns, unwrapped.
        largest: in that case, computes the largest sub-network's answer.

    Attributes:
        own: whether the student teaches itself.
        cache: the teacher's answers on disk; None where they are not kept.

    Raises: ConfigError for a layer name that one of the two models does not have.
    """

    def __init__(
        self, config: DistillConfig, teacher: nn.Layer | None, student: nn.Layer, largest: OwnAnswer | None = None
    ) -> None:
        if teacher is not None and unwrap(teacher) is student:
            raise ConfigError(
                "teacher_model is the model itself; give a copy made before it was converted, or 'self' to learn from "
                "its largest sub-network"
            )
        self.config = config
        self.own = teacher is None
        inner = student if teacher is None else unwrap(teacher)
        self.mapping = _mapping(config.mapping_layers, student, inner)
        students, teachers = LayerNames(student).layers, LayerNames(inner).layers
        watched = [*self.mapping, *(self.mapping.values() if teacher is None else ())]
        self._student_taps = Taps({name: students[name] for name in watched})
        self._student_hidden: dict[str, paddle.Tensor] = {}
        self._answer: Answer | None = None
        taps = Taps({name: teachers[name] for name in self.mapping.values()})
        self.cache: CachedEngine | None = None
        if largest is not None:
            self._teacher: Teacher = OwnTeacher(student, lambda args, kwargs, state: largest(taps, args, kwargs))
        else:
            engine = engine_of(config.teacher_engine, inner, taps)
            if config.cache_teacher is not None:
                engine = self.cache = CachedEngine(engine, config.cache_teacher, inner, taps)
            self._teacher = Teacher(inner, engine)
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

    @property
    def answered(self) -> Any:
        """The teacher's output for the batch that the students learn from."""
        return None if self._answer is None else self._answer.output

    def teach(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The teacher's output; it runs only if this is another batch than the last one."""
        self._answer = None
        self._answer = self._teacher(args, kwargs)
        return self.answered

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Starts a batch that is known to be another one: runs the teacher, or waits for the student's answer."""
        self._answer = None
        if not self.own:
            self._answer = self._teacher.answer(args, kwargs)

    @property
    def waits(self) -> bool:
        """Whether the answer is still to come, from the student's largest sub-network."""
        return self._answer is None

    def take(self, output: Any, hidden: Mapping[str, paddle.Tensor]) -> None:
        """Takes what the student's largest sub-network computed for the answer; no gradient flows into it."""
        tensors, nesting = split((output, dict(hidden)))
        kind = unsupported_leaf(nesting)
        if kind is not None:
            raise DistillError(
                f"the largest sub-network's output holds a {kind}, from which its gradients cannot be cut off; return "
                "tensors, or tuples, lists and dictionaries of them"
            )
        output, hidden = join(nesting, [tensor.detach() for tensor in tensors])
        self._answer = Answer(output, dict(hidden))

    def forget(self) -> None:
        """Lets go of the student's recorded layers."""
        self._student_hidden = {}

    @contextmanager
    def recording(self) -> Iterator[dict[str, paddle.Tensor]]:
        """Records the student's mapped layers while it runs inside the block; yields them by name."""
        self._student_hidden = {}
        with self._student_taps.record() as hidden:
            yield hidden
        self._student_hidden = hidden

    def loss(self) -> paddle.Tensor:
        """The weighted sum over the mapped layers that ran; see `OFA.calc_distill_loss`."""
        if not self.mapping:
            raise DistillError("calc_distill_loss needs DistillConfig(mapping_layers=[...])")
        if not self._student_hidden or self._answer is None:
            raise DistillError("calc_distill_loss was called before any forward, or no mapped layer ran in it")
        distance = self.config.distill_fn or mean_square
        parts = []
        for name, teacher_name in self.mapping.items():
            if name not in self._student_hidden:
                continue  # the depth dropped it, so it did not run
            student, teacher = self._student_hidden[name], self._answer.hidden[teacher_name].detach()
            if name in self.projections:
                student = self.projections[name](student)
            if self.config.distill_fn is None and student.shape != teacher.shape:
                raise DistillError(
                    f"layer {name!r}: the student's output {list(student.shape)} and the teacher's "
                    f"{list(teacher.shape)} differ in shape; a mapping_op ({', '.join(MAPPING_OPS)}) maps one to "
                    "the other"
                )
            mask = self._answer.masks.get(teacher_name)
            if mask is not None:
                teacher = _completed(name, teacher, student, mask)
            parts.append(distance(student, teacher))
        weight = 1.0 if self.config.lambda_distill is None else self.config.lambda_distill
        return paddle.add_n(parts) * weight


def _completed(name: str, teacher: paddle.Tensor, student: paddle.Tensor, known: paddle.Tensor) -> paddle.Tensor:
    """The teacher's output with the student's own where it is not known, so that nothing is learnt there."""
    if student.shape != teacher.shape:
        raise DistillError(
            f"layer {name!r}: with cache_teacher padded positions take the student's values, but its output "
            f"{list(student.shape)} and the teacher's {list(teacher.shape)} differ in shape; give a mapping_op"
        )
    known = known.reshape([*known.shape, *[1] * (teacher.ndim - known.ndim)])
    return paddle.where(known, teacher, student.detach().astype(teacher.dtype))


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
