"""Relations between positions in self-attention, which a student of any width can learn without a projection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.base.checks import check_whole
from ofa_slim.base.examples import Example
from ofa_slim.base.modes import forward_signature
from ofa_slim.errors import ConfigError, DistillError, nearest
from ofa_slim.supernet.families import Stack, find_stacks, max_sizes
from ofa_slim.supernet.paths import joined, layer_at
from ofa_slim.tasks import padding_mask

# Which projections' outputs are multiplied: by number in the order query, key, value.
KINDS = {"attention": (0, 1), "queries": (0, 0), "keys": (1, 1), "values": (2, 2)}

_MASKED = -1e9  # a score whose softmax is 0, but finite


@dataclass(frozen=True)
class AttentionRelations:
    """How positions relate to each other in an attention, as something to learn from a teacher.

    Queries, keys or values are split into `heads` parts; the scaled products of one part between all positions, after
    a softmax, say how each position relates to the others. They have the same shape at every width, so a student of
    another hidden size or number of heads needs no projection. The loss is the Kullback-Leibler divergence of the
    student's relations from the teacher's, averaged over parts and positions that are not padding, summed over kinds
    and blocks.

    Args:
        blocks: ``{number of a block of the student: of the teacher}``, from 0; negative ones count from the end. None:
            the last block of each, as published.
        kinds: of ``"queries"``, ``"keys"`` and ``"values"``, each with itself, and ``"attention"``, queries with keys.
            ``("attention", "values")`` is MiniLM's, the three first are those of its second version.
        heads: how many parts; it divides the width of queries, keys and values of every sub-network. None: the largest
            number that does so, up to the teacher's number of heads.
        weight: of this loss.

    Raises: ConfigError for values that cannot mean anything.

    Source: Wang et al. 2020 (MiniLM), arXiv:2002.10957; Wang et al. 2021 (MiniLMv2), arXiv:2012.15828.
    """

    blocks: Mapping[int, int] | None = None
    kinds: Sequence[str] = ("queries", "keys", "values")
    heads: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Checks what can be checked without the models."""
        if isinstance(self.kinds, str) or not isinstance(self.kinds, Sequence) or not self.kinds:
            raise ConfigError(f"relations: kinds {self.kinds!r} is not a list with some of {', '.join(KINDS)}")
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(
                    f"relations: kind {kind!r} is not one of {', '.join(KINDS)}{nearest(str(kind), KINDS)}"
                )
        if self.heads is not None:
            check_whole(self.heads, "relations: heads", 1, ConfigError)
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ConfigError(f"relations: weight {weight!r} is not a number of at least 0")
        blocks = self.blocks
        if blocks is not None and (
            not isinstance(blocks, Mapping)
            or not blocks
            or not all(type(number) is int for pair in blocks.items() for number in pair)
        ):
            raise ConfigError(f"relations: blocks {blocks!r} are not pairs of numbers of blocks")


@dataclass(frozen=True)
class RelatedBlocks:
    """The projections of attentions whose relations are compared.

    Attributes:
        config: what to compare.
        pairs: for each pair of blocks the paths of the query, key and value projections of student and teacher.
        heads: how many parts.
    """

    config: AttentionRelations
    pairs: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    heads: int

    def paths(self, side: int) -> list[str]:
        """The layers to record: of the student (0) or the teacher (1)."""
        needed = sorted({number for kind in self.config.kinds for number in KINDS[kind]})
        return [pair[side][number] for pair in self.pairs for number in needed]

    def loss(
        self,
        student: Mapping[str, paddle.Tensor],
        teacher: Mapping[str, paddle.Tensor],
        real: paddle.Tensor | None,
    ) -> paddle.Tensor | None:
        """The weighted divergence, scalar; None where no such block ran.

        Args:
            student: outputs of the projections, float ``[batch, length, width]``, by path.
            teacher: the same, of its own width.
            real: bool ``[batch, length]``, false for padding; None: all positions count.
        """
        parts = []
        for own, its in self.pairs:
            for kind in self.config.kinds:
                first, second = KINDS[kind]
                if own[first] in student and own[second] in student:
                    mine = self._scores(own[first], student[own[first]], student[own[second]])
                    other = self._scores(its[first], teacher[its[first]].detach(), teacher[its[second]].detach())
                    parts.append(divergence(mine, other, real))
        return paddle.add_n(parts) * self.config.weight if parts else None

    def _scores(self, path: str, first: paddle.Tensor, second: paddle.Tensor) -> paddle.Tensor:
        if first.ndim != 3 or first.shape[-1] % self.heads:
            raise DistillError(
                f"relations: the output of {path!r} has shape {list(first.shape)}, which cannot be split into "
                f"{self.heads} parts; give relations heads that divide every width"
            )
        return relation_scores(first, second, self.heads)


def relation_scores(first: paddle.Tensor, second: paddle.Tensor, heads: int) -> paddle.Tensor:
    """Scaled products between positions, float32 ``[batch, heads, length, length]``.

    Args:
        first: float ``[batch, length, width]``, `width` a multiple of `heads`.
        second: the same.
        heads: how many parts the width is split into.
    """
    batch, length, width = first.shape
    parts = [
        one.reshape([batch, length, heads, width // heads]).transpose([0, 2, 1, 3]).astype("float32")
        for one in (first, second)
    ]
    return paddle.matmul(parts[0], parts[1], transpose_y=True) / math.sqrt(width // heads)


def divergence(student: paddle.Tensor, teacher: paddle.Tensor, real: paddle.Tensor | None) -> paddle.Tensor:
    """Kullback-Leibler divergence of the student's relations from the teacher's, the mean over real positions.

    Args:
        student: scores ``[batch, heads, length, length]``, float32.
        teacher: the same; no gradient flows into it.
        real: bool ``[batch, length]``; None: all positions count.

    Returns: scalar, at least 0.
    """
    if real is not None:
        keys = real.unsqueeze([1, 2])
        low = paddle.full_like(student, _MASKED)
        student, teacher = paddle.where(keys, student, low), paddle.where(keys, teacher, low)
    right = F.softmax(teacher)
    rows = (right * (F.log_softmax(teacher) - F.log_softmax(student))).sum(-1).mean(1)
    if real is None:
        return rows.mean()
    counted = real.astype(rows.dtype)
    return (rows * counted).sum() / counted.sum().clip(min=1.0)


def related_blocks(config: AttentionRelations, student: nn.Layer, teacher: nn.Layer) -> RelatedBlocks:
    """Finds the projections that a config means.

    Raises: ConfigError for a model without one stack of blocks of a known family, a block that is not there, queries,
        keys and values in one layer, or heads that do not divide the widths.
    """
    models, whose = (student, teacher), ("student", "teacher")
    stacks = [_only_stack(*one) for one in zip(models, whose, strict=True)]
    numbers = {-1: -1} if config.blocks is None else config.blocks
    pairs = tuple(
        (_projections(student, stacks[0], own, whose[0]), _projections(teacher, stacks[1], its, whose[1]))
        for own, its in numbers.items()
    )
    heads = [_heads(stack) for stack in stacks]
    widths = {_width(student, own[0]) for own, _ in pairs}
    # A sub-network has any number of the student's heads.
    widths = {width // heads[0] if heads[0] and width % heads[0] == 0 else width for width in widths}
    widths |= {_width(teacher, its[0]) for _, its in pairs}
    return RelatedBlocks(config, pairs, _parts(config.heads, math.gcd(*widths), max(heads[1], 1)))


def _parts(wanted: int | None, common: int, most: int) -> int:
    """How many parts widths are split into that have the divisor `common`; by default up to `most`."""
    if wanted is None:
        return max(number for number in range(1, most + 1) if common % number == 0)
    if common % wanted:
        raise ConfigError(
            f"relations: heads {wanted} does not divide {common}, which the widths of a student's head and of the "
            "teacher have in common"
        )
    return wanted


def real_positions(model: nn.Layer, batch: Example) -> paddle.Tensor | None:
    """Which positions of a batch are not padding, bool ``[batch, length]``; None where the inputs do not tell."""
    names = list(forward_signature(model).parameters)
    inputs = {**dict(zip(names, batch.args, strict=False)), **batch.kwargs}
    ids = (getattr(layer, "pad_token_id", None) for layer in model.sublayers(include_self=True))
    return padding_mask(inputs, next((pad for pad in ids if isinstance(pad, int)), None))


def _only_stack(model: nn.Layer, whose: str) -> Stack:
    stacks = find_stacks(model)
    if len(stacks) != 1:
        raise ConfigError(
            f"relations: the {whose}, a {type(model).__name__}, has {len(stacks)} stacks of blocks with attention of a "
            "known family; it must have one"
        )
    return stacks[0]


def _heads(stack: Stack) -> int:
    """How many heads the attentions of a stack have at most; 0 where that is not known."""
    block = next(iter(stack.blocks.values()))
    return (max_sizes(layer_at(block, stack.family.heads.counted[0])) or {}).get("heads", 0)


def _width(model: nn.Layer, path: str) -> int:
    return (max_sizes(layer_at(model, path)) or {}).get("out", 0)


def _projections(model: nn.Layer, stack: Stack, number: int, whose: str) -> tuple[str, ...]:
    """The paths of the query, key and value projections of a block."""
    blocks = list(stack.blocks)
    if not -len(blocks) <= number < len(blocks):
        raise ConfigError(f"relations: the {whose} has no block {number}; it has {len(blocks)}")
    paths = tuple(joined(blocks[number], path) for path, role in stack.family.heads.slots[:3])
    for path in paths:
        try:
            layer_at(model, path)
        except (AttributeError, KeyError):
            raise ConfigError(
                f"relations: the {whose} has no layer {path!r}; queries, keys and values have to be layers of their own"
            ) from None
    return paths
