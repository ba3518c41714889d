"""Distillation: projections between unequal widths, and the loss over mapped layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.base.examples import Example
from ofa_slim.base.taps import Taps
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError, DistillError
from ofa_slim.supernet.families import max_sizes
from ofa_slim.supernet.published import LayerNames
from ofa_slim.supernet.spec import spec_of
from ofa_slim.tasks.losses import mean_square
from ofa_slim.train.attention_relations import real_positions, related_blocks
from ofa_slim.train.distill_config import MAPPING_OPS, DistillConfig
from ofa_slim.train.teacher import Answer, CachedEngine, Teacher, engine_of

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
    """Asks the teacher, records the student's mapped layers, and compares the two.

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
        self._relations = None if config.relations is None else related_blocks(config.relations, student, inner)
        own, its = ([] if self._relations is None else self._relations.paths(side) for side in (0, 1))
        asked = dict.fromkeys([*self.mapping.values(), *its])
        watched = dict.fromkeys([*self.mapping, *own, *(asked if teacher is None else ())])
        self._student, self._real = student, cast("paddle.Tensor | None", None)
        self._student_taps = Taps({name: students[name] for name in watched})
        taps = Taps({name: teachers[name] for name in asked})
        self.cache: CachedEngine | None = None
        if largest is not None:
            self._teacher = Teacher(student, lambda args, kwargs, state: largest(taps, args, kwargs), frozen=False)
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

    @property
    def compares(self) -> bool:
        """Whether anything but the output is compared."""
        return bool(self.mapping) or self._relations is not None

    def begin(self, batch: Example) -> None:
        """Notes which positions of a batch count, before the student runs on it."""
        if self._relations is not None:
            self._real = real_positions(self._student, batch)

    def parameters(self) -> list[paddle.Tensor]:
        """The projections' parameters."""
        return [parameter for layer in self.projections.values() for parameter in layer.parameters()]

    def answer(self, batch: Example, new: bool = False) -> Answer:
        """The teacher's answer; it runs if the batch is not the last one, or if `new` says that it cannot be."""
        ask = self._teacher.answer if new else self._teacher
        return ask(batch.args, dict(batch.kwargs))

    def record(self) -> AbstractContextManager[dict[str, paddle.Tensor]]:
        """Collects the outputs of the student's mapped layers by name while it runs inside the block."""
        return self._student_taps.record()

    def loss(self, hidden: Mapping[str, paddle.Tensor], answer: Answer | None) -> paddle.Tensor:
        """The weighted sum over the mapped layers and relations; see `OFA.calc_distill_loss`.

        Args:
            hidden: the recorded outputs of the student; layers that the depth dropped are not among them.
            answer: the teacher's for the same batch; None before the first.
        """
        if not self.compares:
            raise DistillError("calc_distill_loss needs DistillConfig(mapping_layers=[...]) or relations")
        if not hidden or answer is None:
            raise DistillError("calc_distill_loss was called before any forward, or no mapped layer ran in it")
        parts = [
            self._distance(name, hidden[name], answer.hidden[other].detach(), answer.masks.get(other))
            for name, other in self.mapping.items()
            if name in hidden
        ]
        if self._relations is not None:
            # What a cache does not hold is padding.
            real = self._real if self._real is not None else next(iter(answer.masks.values()), None)
            related = self._relations.loss(hidden, answer.hidden, real)
            parts += [] if related is None else [related]
        if not parts:
            raise DistillError("no block whose relations are compared ran in the last forward")
        weight = 1.0 if self.config.lambda_distill is None else self.config.lambda_distill
        return paddle.add_n(parts) * weight

    def _distance(
        self, name: str, student: paddle.Tensor, teacher: paddle.Tensor, known: paddle.Tensor | None
    ) -> paddle.Tensor:
        if name in self.projections:
            student = self.projections[name](student)
        if self.config.distill_fn is None and student.shape != teacher.shape:
            raise DistillError(
                f"layer {name!r}: the student's output {list(student.shape)} and the teacher's "
                f"{list(teacher.shape)} differ in shape; a mapping_op ({', '.join(MAPPING_OPS)}) maps one to "
                "the other"
            )
        if known is not None:
            teacher = _completed(name, teacher, student, known)
        return (self.config.distill_fn or mean_square)(student, teacher)


def _completed(name: str, teacher: paddle.Tensor, student: paddle.Tensor, known: paddle.Tensor) -> paddle.Tensor:
    """The teacher's output with the student's own where it is not known, so that the difference there is zero."""
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
    # Scripts for libraries that wrap layers name the wrapped layer; here nothing is wrapped.
    name = name.removesuffix(".fn") if isinstance(name, str) else name
    try:
        return names.path(name)
    except ConfigError as error:
        raise ConfigError(f"mapping_layers: in the {whose}, {error}") from None


def _output_width(name: str, layer: nn.Layer) -> int:
    """The full output width of a layer: that of its last part that has a width."""
    for part in reversed(layer.sublayers(include_self=True)):
        spec, sizes = spec_of(part), max_sizes(part)
        if spec is not None and spec.width is not None and sizes is not None:
            return sizes[spec.width]
    raise ConfigError(f"mapping_op: the output width of layer {name!r} cannot be told from its parts")
