"""Models that were not written with this library in mind."""

from __future__ import annotations

from collections.abc import Mapping

import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F


class TwoInputs(nn.Layer):
    """A picture and a row of numbers meet in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2D(3, 8, 3, padding=1)
        self.read = nn.Linear(5, 12)
        self.mix = nn.Linear(20, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, picture: paddle.Tensor, row: paddle.Tensor) -> paddle.Tensor:
        seen = F.relu(self.look(picture)).mean([2, 3])
        return self.head(F.relu(self.mix(paddle.concat([seen, F.relu(self.read(row))], axis=1))))


class DictionaryInput(nn.Layer):
    """One argument, a dictionary of tensors; it returns one, too."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 12)
        self.score = nn.Linear(4, 12)
        self.body = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 3))

    def forward(self, batch: Mapping[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        hidden = self.words(batch["ids"]).mean(axis=1) + self.score(batch["scores"])
        return {"logits": self.body(hidden)}


class SharedLayers(nn.Layer):
    """One layer at three places, and one table for words at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 12)
        self.up = nn.Linear(12, 16)
        self.again = nn.Linear(16, 16)
        self.alias = self.again
        self.down = nn.Linear(16, 12)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        hidden = F.relu(self.up(self.words(ids)))
        hidden = self.alias(F.relu(self.again(hidden))) + self.again(hidden)
        return F.linear(self.down(hidden), self.words.weight.t())


class EarlyExits(nn.Layer):
    """An answer behind each stage, and one that is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.LayerList([nn.Conv2D(3 if i == 0 else 8, 8, 3, padding=1) for i in range(3)])
        self.exits = nn.LayerList([nn.Linear(8, 2) for _ in range(3)])

    def forward(self, x: paddle.Tensor) -> tuple[list[paddle.Tensor], dict[str, paddle.Tensor]]:
        answers = []
        for stage, leave in zip(self.stages, self.exits):  # noqa: B905 - Paddle's translation knows no strict=
            x = F.relu(stage(x))
            answers.append(leave(x.mean([2, 3])))
        return answers[:-1], {"last": answers[-1]}


class AddedParameter(nn.Layer):
    """A parameter of its own, added to one activation and scaling another along all but the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.position = self.create_parameter([12], default_initializer=nn.initializer.Normal())
        self.second = nn.Linear(12, 16)
        self.gain = self.create_parameter([5, 1], default_initializer=nn.initializer.Normal())
        self.head = nn.Linear(16, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(F.relu(self.second(self.first(x) + self.position)) * self.gain)


class AddedInput(nn.Layer):
    """The input comes back, further down."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.second = nn.Linear(12, 6)
        self.third = nn.Linear(6, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(F.relu(self.third(self.second(F.relu(self.first(x))) + x)))


class DataDependent(nn.Layer):
    """What it computes depends on what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.second = nn.Linear(12, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        hidden = self.second(F.relu(self.first(x)))
        if x.mean() > 0:
            hidden = hidden * 2
        return self.head(hidden)


class AskedInPython(nn.Layer):
    """It reads numbers out of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        hidden = self.first(x)
        return self.head(hidden * float(hidden.numpy().mean()))


class Recurrent(nn.Layer):
    """A recurrent layer between layers that are not."""

    def __init__(self, kind: type[nn.Layer] = nn.LSTM) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 12)
        self.into = nn.Linear(12, 12)
        self.middle = kind(12, 10)
        self.out = nn.Linear(10, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        hidden, _ = self.middle(F.relu(self.into(self.words(ids))))
        return self.head(F.relu(self.out(hidden[:, -1])))


class _Doubled(PyLayer):
    @staticmethod
    def forward(ctx: object, x: paddle.Tensor) -> paddle.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, gradient: paddle.Tensor) -> paddle.Tensor:
        return gradient * 2


class OwnGradient(nn.Layer):
    """A function with a gradient of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.second = nn.Linear(12, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(F.relu(self.second(_Doubled.apply(self.first(x)))))


class EinsumAttention(nn.Layer):
    """Attention that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16)
        self.out = nn.Linear(16, 8)
        self.wide, self.narrow = nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        n, length, _ = x.shape
        q, k, v = (layer(x).reshape([n, length, -1, 4]) for layer in (self.query, self.key, self.value))
        weights = F.softmax(paddle.einsum("bqhd,bkhd->bhqk", q, k) / 2)
        mixed = paddle.einsum("bhqk,bkhd->bqhd", weights, v)
        x = x + self.out(mixed.flatten(2))
        return x + self.narrow(F.gelu(self.wide(x)))


def nested() -> nn.Layer:
    def pair(given: int, made: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(given, made), nn.LayerNorm(made), nn.ReLU())

    return nn.Sequential(
        nn.Sequential(pair(6, 12), nn.Sequential(pair(12, 16), nn.Dropout(0.5))), pair(16, 8), nn.Linear(8, 2)
    )


class ChannelsLast(nn.Layer):
    """Convolutions over pictures whose channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2D(3, 8, 3, padding=1, data_format="NHWC"),
            nn.BatchNorm2D(8, data_format="NHWC"),
            nn.ReLU(),
            nn.MaxPool2D(2, data_format="NHWC"),
            nn.Conv2D(8, 8, 3, padding=1, groups=8, data_format="NHWC"),
            nn.Conv2D(8, 12, 1, data_format="NHWC"),
        )
        self.head = nn.Linear(12, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.body(x).mean([1, 2]))


class WithBuffers(nn.Layer):
    """Constants that are saved with it: one that no width changes, and one of a width."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", paddle.full([6], 0.3))
        self.register_buffer("mask", (paddle.arange(16) % 2).astype("float32"))
        self.first, self.second, self.head = nn.Linear(6, 12), nn.Linear(12, 16), nn.Linear(16, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.second(F.relu(self.first(x - self.mean))) * self.mask)


class OptionalArguments(nn.Layer):
    """Keyword arguments, of which some are tensors and most are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.extra, self.head = nn.Linear(6, 12), nn.Linear(4, 12), nn.Linear(12, 2)

    def forward(
        self, x: paddle.Tensor, *, more: paddle.Tensor | None = None, scale: float = 1.0, both: bool = False
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        hidden = F.relu(self.first(x))
        if more is not None:
            hidden = hidden + self.extra(more)
        logits = self.head(hidden) * scale
        return (logits, logits.mean()) if both else logits


class SuperResolution(nn.Layer):
    """Channels become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 8, 3, padding=1)
        self.second = nn.Conv2D(8, 32, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.third = nn.Conv2D(8, 8, 3, padding=1)
        self.last = nn.Conv2D(8, 12, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.third(self.shuffle(F.relu(self.second(F.relu(self.first(x)))))))
        return F.pixel_shuffle(self.last(x), 2)


class Vit(nn.Layer):
    """Patches of a picture, a token for its class, positions, and attention with one matrix for all three."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2D(3, 16, 4, stride=4)
        self.token = self.create_parameter([1, 1, 16], default_initializer=nn.initializer.Normal())
        self.positions = self.create_parameter([1, 5, 16], default_initializer=nn.initializer.Normal())
        self.blocks = nn.LayerList([VitBlock() for _ in range(2)])
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.patches(x).flatten(2).transpose([0, 2, 1])
        x = paddle.concat([self.token.expand([x.shape[0], -1, -1]), x], axis=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class VitBlock(nn.Layer):
    """Two branches with a norm in front of each."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape([n, length, 3, 4, width // 4]).transpose([2, 0, 3, 1, 4])
        weights = F.softmax(qkv[0].matmul(qkv[1], transpose_y=True) / 2)
        x = x + self.proj(weights.matmul(qkv[2]).transpose([0, 2, 1, 3]).reshape([n, length, width]))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Unet(nn.Layer):
    """What goes down is put beside what comes up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.LayerList([nn.Conv2D(a, b, 3, padding=1) for a, b in ((3, 4), (4, 8), (8, 16))])
        self.norms = nn.LayerList([nn.BatchNorm2D(width) for width in (4, 8, 16)])
        self.rise = nn.LayerList([nn.Conv2DTranspose(a, b, 2, stride=2) for a, b in ((16, 8), (8, 4))])
        self.up = nn.LayerList([nn.Conv2D(a, b, 3, padding=1) for a, b in ((16, 8), (8, 4))])
        self.last = nn.Conv2D(4, 2, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        kept = []
        for i in range(3):
            x = F.relu(self.norms[i](self.down[i](x)))
            kept.append(x)
            x = F.max_pool2d(x, 2) if i < 2 else x
        for i in range(2):
            x = F.relu(self.up[i](paddle.concat([kept[1 - i], self.rise[i](x)], axis=1)))
        return self.last(x)


class Penalised(nn.Layer):
    """Its answer holds the size of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 12), nn.Linear(12, 16), nn.Linear(16, 2)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        return self.head(F.relu(self.second(self.first(x)))), (self.first.weight**2).sum()
