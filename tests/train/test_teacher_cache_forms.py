"""What a cache holds of an answer: its nesting, its padding, its size; and what it refuses to hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle import nn

from models import difference
from ofa_slim.errors import ConfigError
from ofa_slim.train.teacher.store import ENTRY_SIZE
from teacher_caches import Cached, bits, full, padded, pooled, words

NESTINGS: dict[str, Callable[[paddle.Tensor, paddle.Tensor], Any]] = {
    "a tensor": pooled,
    "a tuple": lambda hidden, mask: (pooled(hidden, mask), hidden),
    "a list in a dictionary": lambda hidden, mask: {"a": [pooled(hidden, mask), None], 3: (1.5, "b", True)},
    "half precision": lambda hidden, mask: (hidden.astype("bfloat16"), pooled(hidden, mask).astype("float16")),
    "numbers": lambda hidden, mask: (
        pooled(hidden, mask).argmax(-1),
        hidden > 0,
        pooled(hidden, mask).astype("float64"),
    ),
    "one number a row": lambda hidden, mask: pooled(hidden, mask).sum(-1),
    "the same twice": lambda hidden, mask: (hidden, hidden),
}


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, paddle.Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert bits(one) == bits(other)
    else:
        assert one == other


@pytest.mark.parametrize("name", NESTINGS)
def test_outputs_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    model, ids = words(NESTINGS[name]), full()[0]
    for _ in range(2):
        cached = Cached(tmp_path, model)
        for _ in range(2):
            answer = cached(ids)
            same(answer.output, model(ids))
            same(answer.hidden, {"embed": model.embed(ids)})
            assert not answer.masks
        cached.engine.close()
    assert cached.calls == 0


def test_an_output_for_each_position_is_zero_in_padding(tmp_path: Path) -> None:
    # As of a tagger, and of a span's beginning.
    cached = Cached(tmp_path, words(lambda hidden, mask: (hidden, hidden.sum(-1))), layers=())
    first = full(length=7)[0]
    cached(first)
    calls = cached.calls
    other = paddle.concat([*padded((first,), 9), full(length=9, seed=1)[0]])
    tagged, spans = cached(other).output
    expected = cached.model(other)
    for found, wanted in ((tagged, expected[0]), (spans, expected[1])):
        assert difference(found[:3, :7], wanted[:3, :7]) == 0
        assert float(found[:3, 7:].abs().max()) == 0
        assert difference(found[3:], wanted[3:]) == 0
    assert cached.calls == calls + 1


@pytest.mark.parametrize("length", [4, 1])
def test_as_many_classes_as_positions_are_no_positions(tmp_path: Path, length: int) -> None:
    cached = Cached(tmp_path, words(lambda hidden, mask: pooled(hidden, mask)[:, :length]))
    ids = full(length=length)[0]
    ids[1:, max(1, length - 2) :] = 0
    answer = cached(ids)
    assert difference(answer.output, cached.model(ids)) == 0
    other = padded((ids,), 6)[0]
    assert bits(cached(other).output) == bits(answer.output)
    assert list(answer.masks) == ([] if length == 1 else ["embed"])


class Images(nn.Layer):
    """A teacher of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 5, 3)
        self.register_buffer("shift", paddle.zeros([5]))

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.conv(images).mean([2, 3]) + self.shift


def test_images_are_looked_up_whole_and_buffers_count_as_weights(tmp_path: Path) -> None:
    cached = Cached(tmp_path, Images(), layers=("conv",))
    images = paddle.rand([4, 3, 8, 8])
    first = cached(images)
    again = cached(paddle.flip(images, [0]))
    assert cached.calls == 1
    assert bits(again.output) == bits(paddle.flip(first.output, [0]))
    assert bits(again.hidden["conv"]) == bits(paddle.flip(first.hidden["conv"], [0]))
    assert not again.masks
    cached(paddle.where(images == images.max(), images + 1e-3, images))
    assert cached.calls == 2
    cached.engine.close()
    cached.model.shift.set_value(paddle.ones([5]))
    assert difference(cached(images).output, first.output) > 0.1
    assert cached.calls == 3


def test_too_many_bytes_are_refused_before_any_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    # A row: 7 positions of 4 float32, 4 float32, and its entry.
    row = 7 * 4 * 4 + 4 * 4 + ENTRY_SIZE
    with pytest.raises(
        ConfigError, match=rf"100 rows like the 3 so far need {100 * row:,} bytes, .*max_bytes={100 * row - 1:,}"
    ):
        Cached(folder, words(), max_bytes=100 * row - 1)(full()[0])
    assert not folder.exists()
    cached = Cached(folder, words(), max_bytes=100 * row)
    cached(full()[0])
    (inside,) = folder.iterdir()
    sizes = {file.name: file.stat().st_size for file in inside.iterdir()}
    assert sum(size for name, size in sizes.items() if name.endswith(".bin")) == 3 * row
    # Longer rows later on lift the mean.
    with pytest.raises(ConfigError, match="map fewer layers or raise max_bytes"):
        cached(full(length=20)[0])
    assert sizes == {file.name: file.stat().st_size for file in inside.iterdir()}
    cached.engine.close()
    # What is there is of use still.
    again = Cached(folder, words(), max_bytes=100 * row)
    again(full()[0])
    assert again.calls == 0


def test_inputs_that_change_from_epoch_to_epoch_are_refused(tmp_path: Path) -> None:
    cached = Cached(tmp_path, Images(), layers=(), rows=6)
    data = [paddle.rand([3, 3, 8, 8]) for _ in range(2)]
    for _ in range(2):
        for images in data:
            cached(images)
    with pytest.raises(ConfigError, match=r"7 distinct rows were seen, but rows=6.*augmentation.*rows= is too small"):
        cached(paddle.concat([data[0], paddle.rand([1, 3, 8, 8])]))
    assert cached.calls == 2
    cached(data[0])
    cached.engine.close()
    # Rows of another data set, stored by another run, do not count.
    other = Cached(tmp_path, cached.model, layers=(), rows=6)
    other(paddle.rand([6, 3, 8, 8]))
    with pytest.raises(ConfigError, match="9 distinct rows"):
        other(data[0])
