"""Teachers behind a cache of their answers, with a count of the calls that reach them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from models import bert, ofa_of
from ofa_slim import OFA, TeacherCache
from ofa_slim.base.taps import Taps
from ofa_slim.train.builders import Teaching
from ofa_slim.train.teacher.answer import Answer
from ofa_slim.train.teacher.cache import CachedEngine
from ofa_slim.train.teacher.engines import LayerByLayer

LAYERS = ["bert.embeddings", "bert.encoder.layers.1"]


def full(rows: int = 3, length: int = 7, seed: int = 0) -> tuple[paddle.Tensor, paddle.Tensor]:
    """A batch without padding."""
    rng = np.random.default_rng(seed)
    ids = paddle.to_tensor(rng.integers(1, 50, (rows, length)))
    return ids, paddle.to_tensor(rng.integers(0, 2, (rows, length)))


def padded(inputs: Any, length: int, order: Any = None) -> tuple[paddle.Tensor, ...]:
    """The same rows in another order, with positions added behind."""
    more = [F.pad(tensor, [0, length - tensor.shape[1]], value=0) for tensor in inputs]
    return tuple(tensor if order is None else paddle.index_select(tensor, paddle.to_tensor(order)) for tensor in more)


def counted(teacher: nn.Layer) -> list[int]:
    calls: list[int] = []
    teacher.register_forward_post_hook(lambda layer, inputs, output: calls.append(1))
    return calls


def learning(folder: Path | None, rows: int = 100, **more: Any) -> tuple[OFA, nn.Layer, list[int]]:
    """A supernet, its teacher, and a list that grows when that runs; the same weights in every call."""
    paddle.seed(0)
    student, teacher = bert(), bert()
    cache = None if folder is None else TeacherCache(folder, rows)
    ofa = ofa_of(student, teacher, mapping_layers=LAYERS, lambda_distill=0.3, cache_teacher=cache, **more)
    return ofa, teacher, counted(teacher)


def soft(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    return F.cross_entropy(student, F.softmax(teacher), soft_label=True)


def bits(tensor: paddle.Tensor) -> bytes:
    return bytes(tensor.numpy().tobytes())


class Words(nn.Layer):
    """A teacher of token ids that does not look at padding.

    Args:
        answer: ``answer(hidden states [batch, length, 4], mask [batch, length, 1])`` -> output.
    """

    def __init__(self, answer: Callable[[paddle.Tensor, paddle.Tensor], Any]) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 4)
        self.answer = answer

    def forward(self, ids: paddle.Tensor, types: paddle.Tensor | None = None, flag: Any = None) -> Any:
        hidden = self.embed(ids) if types is None else self.embed(ids) + 2 * self.embed(types)
        return self.answer(hidden, (ids != 0).astype("float32").unsqueeze(-1))


def pooled(hidden: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
    return (hidden * mask).sum(1)


class Cached:
    """A teacher behind a cache, with the calls that reach it."""

    def __init__(self, folder: Path, model: nn.Layer, layers: tuple[str, ...] = ("embed",), **cache: Any) -> None:
        names = dict(model.named_sublayers())
        taps = Taps({name: names[name] for name in layers})
        self.model = model
        self.plain = LayerByLayer(model, taps)
        self.calls = 0
        self.noise = 0.0
        self.engine = CachedEngine(self._run, TeacherCache(folder, **{"rows": 100, **cache}), model, taps)

    def _run(self, args: Any, kwargs: Any, state: Any) -> Answer:
        self.calls += 1
        answer = self.plain(args, kwargs, state)
        return Answer(answer.output + self.noise, answer.hidden) if self.noise else answer

    def __call__(self, *args: Any, **kwargs: Any) -> Answer:
        state = paddle.concat([parameter.sum().reshape([1]) for parameter in self.model.parameters()])
        return self.engine(args, kwargs, lambda: state)


def words(answer: Any = pooled) -> Words:
    paddle.seed(3)
    return Words(answer)


def rows_asked(module: ModuleType, patch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of a teacher has that a module trains with from now on."""
    asked: list[int] = []

    def teaching(teacher: nn.Layer, **settings: Any) -> Teaching:
        teacher.register_forward_post_hook(lambda layer, given, logits: asked.append(len(logits)))
        return Teaching(teacher, **settings)

    patch.setattr(module, "Teaching", teaching)
    return asked
