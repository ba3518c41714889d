"""A residual CNN whose forward takes its depth."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from digits.data import CLASSES


class Block(nn.Layer):
    """Two convolutions beside a shortcut; shapes stay as they are."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(width, width, kernel), nn.BatchNorm2D(width)
        self.conv2, self.norm2 = convolution(width, width, kernel), nn.BatchNorm2D(width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Maps [batch, width, height, width of the image] to the same."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(inner)))


class DigitsNet(nn.Layer):
    """Two stages of residual blocks, at 8 × 8 pixels and at 4 × 4 with twice the channels.

    Args:
        width: channels of the first stage.
        depth: blocks per stage.
        kernel: size of every kernel.
    """

    def __init__(self, width: int, depth: int, kernel: int) -> None:
        super().__init__()
        self.stem, self.stem_norm = convolution(1, width, kernel), nn.BatchNorm2D(width)
        self.stage1 = nn.LayerList([Block(width, kernel) for _ in range(depth)])
        self.down, self.down_norm = convolution(width, 2 * width, kernel, stride=2), nn.BatchNorm2D(2 * width)
        self.stage2 = nn.LayerList([Block(2 * width, kernel) for _ in range(depth)])
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, images: paddle.Tensor, depth: int | None = None) -> paddle.Tensor:
        """Scores [batch, 10] of images [batch, 1, 8, 8], from the first `depth` blocks of each stage; None: all."""
        x = F.relu(self.stem_norm(self.stem(images)))
        for block in list(self.stage1)[:depth]:
            x = block(x)
        x = F.relu(self.down_norm(self.down(x)))
        for block in list(self.stage2)[:depth]:
            x = block(x)
        return self.head(x.mean([2, 3]))

    def drop_blocks(self, depth: int) -> None:
        """Forgets the blocks behind the first `depth` of each stage, which an export leaves in place."""
        self.stage1 = nn.LayerList(list(self.stage1)[:depth])
        self.stage2 = nn.LayerList(list(self.stage2)[:depth])


def convolution(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2D:
    return nn.Conv2D(inside, outside, kernel, stride=stride, padding=kernel // 2, bias_attr=False)
