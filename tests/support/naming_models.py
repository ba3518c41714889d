"""Small vision models of the kinds whose forwards name widths: in attributes, splits, slices, and heads."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class FusedAttention(nn.Layer):
    """Queries, keys and values in one matrix; the head count is an attribute, the width that of the input (ViT)."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x).reshape([n, length, 3, self.num_heads, width // self.num_heads]).transpose([2, 0, 3, 1, 4])
        weights = F.softmax((qkv[0] * self.scale).matmul(qkv[1].transpose([0, 1, 3, 2])))
        return self.proj(weights.matmul(qkv[2]).transpose([0, 2, 1, 3]).reshape([n, length, width]))


class Block(nn.Layer):
    def __init__(self, attention: nn.Layer, width: int = 32) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 64), nn.Linear(64, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Layer):
    """Patches, a class token, positions and two blocks of fused attention."""

    attention: type[nn.Layer] = FusedAttention

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2D(3, 32, 4, stride=4)
        self.token = self.create_parameter([1, 1, 32], default_initializer=nn.initializer.Normal())
        self.positions = self.create_parameter([1, 5, 32], default_initializer=nn.initializer.Normal())
        self.blocks = nn.LayerList([Block(self.attention()) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.patches(x).flatten(2).transpose([0, 2, 1])
        x = paddle.concat([self.token.expand([x.shape[0], -1, -1]), x], axis=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class NumberedAttention(nn.Layer):
    """The head count and the width of a head are attributes, with a bias of each head by position (Swin)."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = self.create_parameter([9, heads], default_initializer=nn.initializer.Normal())
        self.register_buffer("index", paddle.arange(25) % 9, persistable=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        n, length, _ = x.shape
        qkv = self.qkv(x).reshape([n, length, 3, self.num_heads, self.head_dim]).transpose([2, 0, 3, 1, 4])
        query, key, value = qkv.unbind(0)
        bias = paddle.index_select(self.bias, self.index).reshape([length, length, -1]).transpose([2, 0, 1])
        weights = F.softmax(query.matmul(key, transpose_y=True) * self.head_dim**-0.5 + bias.unsqueeze(0))
        return self.proj(weights.matmul(value).transpose([0, 2, 1, 3]).reshape([n, length, -1]))


class Swin(Vit):
    """The same with the attention of Swin."""

    attention = NumberedAttention


class ReducedAttention(nn.Layer):
    """Queries by themselves, keys and values in one matrix, the width an attribute (PVT)."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.dim, self.num_heads = width, heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        n, length, width = x.shape
        query = self.q(x).reshape([n, length, self.num_heads, width // self.num_heads]).transpose([0, 2, 1, 3])
        kv = self.kv(x).reshape([n, -1, 2, self.num_heads, width // self.num_heads]).transpose([2, 0, 3, 1, 4])
        weights = F.softmax(query.matmul(kv[0], transpose_y=True) * 8**-0.5)
        return self.proj(weights.matmul(kv[1]).transpose([0, 2, 1, 3]).reshape([n, length, self.dim]))


class Pvt(Vit):
    """The same with the attention of PVT."""

    attention = ReducedAttention


class ChunkedAttention(nn.Layer):
    """Queries, keys and values are chunks, split into heads in a comprehension; the layer is called `this`."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(this, x: paddle.Tensor) -> paddle.Tensor:
        n, length, width = x.shape
        parts = this.qkv(x).chunk(3, axis=-1)
        q, k, v = [y.reshape([n, length, this.heads, width // this.heads]).transpose([0, 2, 1, 3]) for y in parts]
        weights = F.softmax(q.matmul(k, transpose_y=True) * 8**-0.5)
        return this.proj(weights.matmul(v).transpose([0, 2, 1, 3]).reshape([n, length, width]))


class Chunked(Vit):
    """The same with chunks."""

    attention = ChunkedAttention


class GroupedAttention(nn.Layer):
    """Two heads of keys and values serve four of queries."""

    def __init__(self, width: int = 32, heads: int = 4, groups: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.channels = heads, groups, width // heads
        self.q, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = nn.Linear(width, groups * self.channels), nn.Linear(width, groups * self.channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        n, length, _ = x.shape
        query = self.q(x).reshape([n, length, self.heads, self.channels]).transpose([0, 2, 1, 3])
        key = self.k(x).reshape([n, length, self.groups, self.channels]).transpose([0, 2, 1, 3])
        value = self.v(x).reshape([n, length, self.groups, self.channels]).transpose([0, 2, 1, 3])
        key, value = (y.repeat_interleave(self.heads // self.groups, axis=1) for y in (key, value))
        weights = F.softmax(query.matmul(key, transpose_y=True) * 8**-0.5)
        return self.proj(weights.matmul(value).transpose([0, 2, 1, 3]).reshape([n, length, -1]))


class Grouped(Vit):
    """The same with shared keys and values."""

    attention = GroupedAttention


class InferredAttention(nn.Layer):
    """The width of a head is left to the reshape, so too few channels would be as many smaller heads."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape([n, length, 3, self.heads, -1]).unbind(2)
        weights = F.softmax(paddle.einsum("bthd,bshd->bhts", q, k) * 8**-0.5)
        return self.proj(paddle.einsum("bhts,bshd->bthd", weights, v).reshape([n, length, -1]))


class Inferred(Vit):
    """The same with inferred head widths."""

    attention = InferredAttention


class Excitation(nn.Layer):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_channels = channels
        self.squeeze, self.excite = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1).reshape([-1, self.num_channels])
        gate = F.sigmoid(self.excite(F.relu(self.squeeze(pooled))))
        return x * gate.reshape([-1, self.num_channels, 1, 1])


class SeNet(nn.Layer):
    """Squeeze and excitation of two stages of one width, and of a third one, and a head that knows its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2D(3, 32, 3, padding=1), nn.BatchNorm2D(32)
        self.convs = nn.LayerList([nn.Conv2D(32, 32, 3, padding=1), nn.Conv2D(32, 16, 1)])
        self.excitations = nn.LayerList([Excitation(32), Excitation(32), Excitation(16)])
        self.sizes, self.head = {"last": 16}, nn.Linear(16, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.excitations[0](F.relu(self.norm(self.stem(x))))
        x = self.excitations[1](F.relu(self.convs[0](x)))
        x = self.excitations[2](self.convs[1](x))
        return self.head(x.mean([2, 3]).reshape([-1, self.sizes["last"]]))


class MixNet(nn.Layer):
    """Channels split by a list, each part with a kernel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.parts = nn.Conv2D(3, 32, 3, padding=1), [16, 8, 8]
        self.mixed = nn.LayerList(
            [nn.Conv2D(n, n, k, padding=k // 2, groups=n) for n, k in zip(self.parts, (3, 5, 7), strict=True)]
        )
        self.body, self.head = nn.Conv2D(32, 24, 1), nn.Linear(24, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        parts = paddle.split(self.stem(x), self.parts, axis=1)
        x = paddle.concat([self.mixed[i](parts[i]) for i in range(3)], axis=1)
        return self.head(F.relu(self.body(x)).mean([2, 3]))


class FasterNet(nn.Layer):
    """A convolution of the first channels, which are sliced off by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mixed = nn.Conv2D(3, 32, 3, padding=1), 8
        self.conv, self.body, self.head = nn.Conv2D(8, 8, 3, padding=1), nn.Conv2D(32, 24, 1), nn.Linear(24, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.stem(x)
        x = paddle.concat([self.conv(x[:, : self.mixed]), x[:, self.mixed :]], axis=1)
        return self.head(F.relu(self.body(x)).mean([2, 3]))


class ShuffleNet(nn.Layer):
    """Halves by the width of the input, of which one is convolved, and a shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 32, 3, padding=1)
        self.branch, self.body, self.head = nn.Conv2D(16, 16, 3, padding=1), nn.Conv2D(32, 24, 1), nn.Linear(24, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.stem(x)
        half = x.shape[1] // 2
        x = paddle.concat([x[:, :half], self.branch(x[:, half:])], axis=1)
        n, width, high, wide = x.shape
        x = x.reshape([n, 2, width // 2, high, wide]).transpose([0, 2, 1, 3, 4]).reshape([n, width, high, wide])
        return self.head(F.relu(self.body(x)).mean([2, 3]))


class GhostNet(nn.Layer):
    """Cheap features beside real ones, of which as many as wanted are kept; every second of the last ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cheap, self.kept = (
            nn.Conv2D(3, 16, 3, padding=1),
            nn.Conv2D(16, 16, 3, padding=1, groups=16),
            24,
        )
        self.body, self.head = nn.Conv2D(24, 24, 1), nn.Linear(12, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.stem(x)
        x = paddle.concat([x, self.cheap(x)], axis=1)[:, : self.kept]
        return self.head(F.relu(self.body(x)).mean([2, 3])[:, ::2])


class Res2Net(nn.Layer):
    """Parts of one width, each added to the next before its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.width = nn.Conv2D(3, 32, 1), 8
        self.convs = nn.LayerList([nn.Conv2D(8, 8, 3, padding=1) for _ in range(3)])
        self.body, self.head = nn.Conv2D(32, 24, 1), nn.Linear(24, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        parts = paddle.split(self.stem(x), [self.width] * 4, axis=1)
        made = [parts[0]]
        for i in range(3):
            made.append(F.relu(self.convs[i](parts[i + 1] + made[-1])))
        return self.head(F.relu(self.body(paddle.concat(made, axis=1))).mean([2, 3]))


class RexNet(nn.Layer):
    """A narrower input is added to the first channels, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.given = nn.Conv2D(3, 16, 3, padding=1), nn.Conv2D(16, 24, 1), 16
        self.act, self.last, self.head = nn.PReLU(16), nn.Conv2D(24, 24, 1), nn.Linear(24, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.act(self.stem(x))
        made = self.body(x)
        made[:, 0 : self.given] += x
        return self.head(F.relu(self.last(made)).mean([2, 3]))
