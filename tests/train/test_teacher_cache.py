"""Answers from disk are the teacher's, whatever batch they come in, whoever was killed while writing them."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from models import batch, bert, difference, ofa_of
from ofa_slim import OFA, DistillConfig, TeacherCache, dynabert_config
from ofa_slim.base.taps import Taps
from ofa_slim.errors import ConfigError, DistillError
from ofa_slim.train.teacher.cache import CachedEngine
from ofa_slim.train.teacher.engines import Answer, LayerByLayer
from ofa_slim.train.teacher.store import ENTRY_SIZE, INDEX_FILE, LAYOUT_FILE, LOCK_FILE, _File

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


def test_answers_from_disk_are_those_of_the_teacher(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    inputs = full()
    with paddle.no_grad():
        expected = teacher(*inputs)
    calls.clear()
    first = ofa(*inputs)[1]
    loss = ofa.calc_distill_loss()
    again = ofa(*(tensor.clone() for tensor in inputs))[1]
    assert len(calls) == 1
    assert difference(first, expected) == 0
    assert bits(again) == bits(first)
    assert again.stop_gradient
    assert again.dtype == expected.dtype
    assert ofa.teacher_cache is not None
    assert (ofa.teacher_cache.hits, ofa.teacher_cache.misses) == (3, 3)
    assert loss.shape == []


def test_another_padding_and_another_order_are_answered_from_disk(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    ids, types = batch()
    types = types * (ids != 0).astype("int64")
    first = ofa(ids, types)[1]
    other = padded((ids, types), 12, order=[2, 0, 1])
    again = ofa(*other)[1]
    assert len(calls) == 1
    assert bits(again) == bits(paddle.index_select(first, paddle.to_tensor([2, 0, 1])))
    assert difference(again, teacher(*other)) < 1e-5
    calls.clear()
    # By name, in any order, and without the padding of the row that had some.
    ofa(token_type_ids=types[2:, :5], input_ids=ids[2:, :5])
    assert not calls


def test_padding_is_cut_at_the_end_alone_and_only_where_it_is_padding(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    for number, ids in enumerate([[1, 2], [1, 0, 2], [0, 1, 2], [1, 0, 0, 2], [0, 0], [0, 0, 0]], 1):
        found = cached(paddle.to_tensor([ids])).output
        assert difference(found, cached.plain((paddle.to_tensor([ids]),), {}, found).output) == 0
        assert cached.calls == number
    cached(paddle.to_tensor([[1, 2, 0, 0]]))
    assert cached.calls == 6
    kept = Cached(tmp_path / "none", words(), pad_token_id=None)
    for ids in [[1, 2], [1, 2, 0]]:
        kept(paddle.to_tensor([ids]))
    assert kept.calls == 2
    fifties = Cached(tmp_path / "one", words(), pad_token_id=1)
    for ids in [[2, 3], [2, 3, 1], [2, 3, 0]]:
        fifties(paddle.to_tensor([ids]))
    assert fifties.calls == 2


def test_everything_that_the_teacher_gets_tells_rows_apart(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    ids = paddle.to_tensor([[1, 2]])
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((ids,), {}),
        ((ids.astype("int32"),), {}),
        ((ids, ids), {}),
        ((ids, ids + 1), {}),
        ((ids,), {"flag": 1}),
        ((ids,), {"flag": 1.0}),
        ((ids,), {"flag": [True, "a"]}),
        ((ids,), {"flag": paddle.to_tensor([1.5])}),
        ((ids,), {"flag": paddle.to_tensor([1.25])}),
        ((ids,), {"flag": paddle.zeros([1])}),
        ((ids,), {"flag": paddle.zeros([1], dtype="int32")}),
        ((ids,), {"flag": paddle.zeros([1, 1], dtype="int32")}),
    ]
    for _ in range(2):
        for args, kwargs in calls:
            cached(*args, **kwargs)
    assert cached.calls == len(calls)


def test_changed_weights_and_other_data_are_answered_by_the_teacher(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    first = ofa(*full())[1]
    weight = teacher.classifier.weight
    before = weight.clone()
    weight.set_value(before * 2)
    changed = ofa(*full())[1]
    assert len(calls) == 2
    assert difference(changed, teacher(*full())) < 1e-6
    assert difference(changed, first) > 1e-3
    calls.clear()
    weight.set_value(before)
    assert bits(ofa(*full())[1]) == bits(first)
    assert not calls
    ofa(*full(seed=1))
    assert len(calls) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_stored_first_is_always_answered(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    ids = full()[0]
    first = cached(ids)
    cached.noise = 1.0
    mixed = cached(paddle.concat([full(seed=1)[0][:1], ids, ids[:1]]))
    assert cached.calls == 2
    assert bits(mixed.output[1:]) == bits(paddle.concat([first.output, first.output[:1]]))
    assert bits(mixed.hidden["embed"][1:4]) == bits(first.hidden["embed"])
    cached.noise = 2.0
    assert bits(cached(full(seed=1)[0][:1]).output) == bits(mixed.output[:1])
    assert (cached.engine.hits, cached.engine.misses) == (5, 4)


def test_a_row_twice_in_a_batch_is_stored_once(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    ids = full(rows=1)[0]
    answer = cached(paddle.concat([ids, ids]))
    assert bits(answer.output[0]) == bits(answer.output[1])
    (folder,) = tmp_path.iterdir()
    assert (folder / INDEX_FILE).stat().st_size == ENTRY_SIZE


@pytest.mark.parametrize("form", ["step", "loop"])
def test_the_second_epoch_runs_the_teacher_not_once_and_a_resumed_run_never(tmp_path: Path, form: str) -> None:
    data = [batch(seed=seed) for seed in range(3)]

    def epoch(ofa: OFA) -> list[float]:
        losses = []
        for inputs in data:
            configs = [dynabert_config(ofa, width) for width in (1.0, 0.5)]
            if form == "step":
                losses += [float(loss) for loss in ofa.train_step(inputs, soft, configs)]
                continue
            for config in configs:
                ofa.set_net_config(config)
                losses.append(float(soft(*ofa(*inputs)) + ofa.calc_distill_loss()))
        return losses

    ofa, _, calls = learning(tmp_path, rows=9)
    first = epoch(ofa)
    assert len(calls) == 3
    assert epoch(ofa) == first
    assert len(calls) == 3
    assert ofa.teacher_cache is not None
    ofa.teacher_cache.close()
    resumed, _, calls = learning(tmp_path, rows=9)
    assert epoch(resumed) == first
    assert not calls


def test_losses_and_gradients_are_those_without_a_cache(tmp_path: Path) -> None:
    def trained(ofa: OFA) -> tuple[list[float], dict[str, np.ndarray]]:
        configs = [dynabert_config(ofa, width) for width in (1.0, 0.5)]
        losses = [float(loss) for loss in ofa.train_step(full(), soft, configs)]
        grads = {name: p.grad.numpy().copy() for name, p in ofa.model.named_parameters() if p.grad is not None}
        ofa.clear_gradients()
        return losses, grads

    expected, wanted = trained(learning(None)[0])
    ofa, _, calls = learning(tmp_path)
    for _ in range(2):
        losses, grads = trained(ofa)
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        assert grads.keys() == wanted.keys()
        for name, gradient in wanted.items():
            np.testing.assert_allclose(grads[name], gradient, atol=1e-6, err_msg=name)
    assert len(calls) == 1


def test_padded_positions_teach_nothing(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    inputs = batch()
    known = (inputs[0] != 0).astype("float32").unsqueeze(-1)
    name = LAYERS[1]
    theirs: dict[str, paddle.Tensor] = {}
    ours: dict[str, paddle.Tensor] = {}
    names = [(dict(teacher.named_sublayers()), theirs), (dict(ofa.model.named_sublayers()), ours)]
    hooks = [
        layers[layer].register_forward_post_hook(
            lambda _, given, output, at=(found, layer): at[0].update({at[1]: output})
        )
        for layers, found in names
        for layer in LAYERS
    ]
    config = dynabert_config(ofa, 0.5)
    losses = []
    for _ in range(2):  # the second from disk
        ofa.set_net_config(config)
        ofa(*(tensor.clone() for tensor in inputs))
        ours[name].retain_grads()
        loss = ofa.calc_distill_loss()
        loss.backward()
        losses.append(float(loss))
        gradient = ours[name].grad
        assert float((gradient * (1 - known)).abs().max()) == 0
        assert float((gradient * known).abs().min(-1).max()) > 0
        ofa.clear_gradients()
    for hook in hooks:
        hook.remove()
    assert len(calls) == 1
    assert losses[0] == losses[1]
    expected = 0.3 * sum(((ours[layer] - theirs[layer]) * known).square().mean() for layer in LAYERS)
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_unequal_widths_need_a_projection_where_there_is_padding(tmp_path: Path) -> None:
    def narrow(**more: Any) -> OFA:
        cache = TeacherCache(tmp_path / str(len(more)), rows=10)
        return ofa_of(bert(), bert(heads=2), mapping_layers=LAYERS, cache_teacher=cache, **more)

    ofa = narrow(mapping_op="linear")
    ofa(*batch())
    assert float(ofa.calc_distill_loss()) > 0
    own = narrow(distill_fn=lambda student, teacher: student.mean() - teacher.mean(), lambda_distill=1.0)
    own(*full())
    own.calc_distill_loss()
    own(*batch())
    with pytest.raises(DistillError, match=r"padded positions take the student's values, but its output \[3, 7, 16\]"):
        own.calc_distill_loss()


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


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[paddle.Tensor]]:
    """A cache with four batches in it."""
    cached = Cached(tmp_path / "whole", words())
    data = [full(length=length, seed=length)[0] for length in (3, 7, 4, 5)]
    for ids in data:
        cached(ids)
    cached.engine.close()
    return tmp_path / "whole", data


def check(folder: Path, data: list[paddle.Tensor], most_known: int) -> int:
    """The answers from a damaged cache are right, and so are those from what it is afterwards; returns the hits."""
    cached = Cached(folder, words())
    hits = []
    for _ in range(2):
        cached.engine.hits = 0
        for ids in data:
            found = cached(ids)
            assert bits(found.output) == bits(cached.model(ids))
            assert bits(found.hidden["embed"]) == bits(cached.model.embed(ids))
        hits.append(cached.engine.hits)
        cached.engine.close()
    assert hits[0] <= most_known
    assert hits[1] == 12
    return hits[0]


@pytest.mark.parametrize("name", ["index.bin", "field-0.bin", "field-1.bin"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.37, 0.5, 0.99])
def test_a_file_that_was_cut_off_anywhere_loses_rows_and_nothing_else(written: Any, name: str, share: float) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    file = inside / name
    packed = file.read_bytes()
    kept = int(len(packed) * share)
    file.write_bytes(packed[:kept])
    hits = check(folder, data, most_known=11)
    if name == "index.bin":
        assert hits == kept // ENTRY_SIZE


@pytest.mark.parametrize("name", ["index.bin", "field-0.bin", "field-1.bin"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_flipped_byte_loses_one_row(written: Any, name: str, share: float, caplog: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    file = inside / name
    packed = bytearray(file.read_bytes())
    packed[int(len(packed) * share)] ^= 16
    file.write_bytes(bytes(packed))
    assert check(folder, data, most_known=11) == 11
    assert "rows were damaged" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_a_writer_killed_at_any_point_leaves_a_sound_cache(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, share: float, first: bool
) -> None:
    folder, data = written
    folder = tmp_path / "new" if first else folder
    whole, writes = _File.write, []

    def killed(file: _File, offset: int, packed: bytes) -> None:
        writes.append(file)
        last = len(writes) == at + 1
        whole(file, offset, packed[: int(len(packed) * share)] if last else packed)
        if last:
            raise KeyboardInterrupt

    cached, more = Cached(folder, words()), full(length=6, seed=9)[0]
    with monkeypatch.context() as patched:
        patched.setattr(_File, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            cached(more)
    cached.engine.close()
    resumed = Cached(folder, words())
    found = resumed(more)
    assert bits(found.output) == bits(resumed.model(more))
    assert bits(found.hidden["embed"]) == bits(resumed.model.embed(more))
    # The entries come last: of the batch only those that are whole count.
    assert resumed.engine.hits == (int(3 * ENTRY_SIZE * share) // ENTRY_SIZE if at == 2 else 0)
    resumed.engine.close()
    assert check(folder, data, most_known=12) == (0 if first else 12)


def test_a_directory_that_was_only_begun_is_used(written: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    (inside / LAYOUT_FILE).unlink()
    assert check(folder, data, most_known=0) == 0


def test_a_damaged_layout_is_an_error(written: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    file = inside / LAYOUT_FILE
    text = file.read_text()
    for damaged in (text[:20], text.replace("float32", "float64"), "[]"):
        file.write_text(damaged)
        with pytest.raises(ConfigError, match=r"layout.json is damaged"):
            Cached(folder, words())(data[0])


def under_one_name(hidden: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
    return hidden.sum([1, 2])


under_one_name.__qualname__ = pooled.__qualname__


def test_mixed_forms_in_one_directory_are_refused(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = written
    with pytest.raises(ConfigError, match=r"holds rows with the mapped layers \['embed'\], and \[\] are mapped now"):
        Cached(folder, words(), layers=())(data[0])
    with pytest.raises(ConfigError, match=r"the teacher answered with .* all answers in one directory have one form"):
        Cached(folder, words(under_one_name))(full(seed=5)[0])
    gc.collect()  # the traceback of the error holds the lock
    monkeypatch.setattr("ofa_slim.train.teacher.store._FORMAT", 2)
    with pytest.raises(ConfigError, match="is of format 1, not 2"):
        Cached(folder, words())(data[0])


def test_a_cache_has_one_user_at_a_time(written: Any) -> None:
    folder, data = written
    cached = Cached(folder, words())
    cached(data[0])
    other = Cached(folder, words())
    with pytest.raises(ConfigError, match=r"is in use by process \d+ \(this one\); a cache has one user at a time"):
        other(data[0])
    cached.engine.close()
    other(data[0])
    assert other.calls == 0
    other.engine.close()


HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_process_that_was_killed_does_no_harm(written: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(inside / LOCK_FILE)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(ConfigError, match="is in use by process"):
                Cached(folder, words())(data[0])
        finally:
            holder.kill()
    assert (inside / LOCK_FILE).is_file()
    check(folder, data, most_known=12)


def test_what_is_known_is_logged(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ofa_slim")
    cached = Cached(tmp_path, words(), rows=6)
    cached(full()[0])
    assert "the teacher's answers to 0 of 6 rows are known; 0 bytes" in caplog.text
    assert "need not run" not in caplog.text
    for _ in range(2):
        cached(full(seed=1)[0])
    assert caplog.text.count("the teacher's answers to all 6 rows are known; it need not run any more") == 1
    cached.engine.close()
    cached(full()[0])
    size = sum(file.stat().st_size for file in next(tmp_path.iterdir()).glob("*.bin"))
    assert f"the teacher's answers to 6 of 6 rows are known; {size:,} bytes" in caplog.text


def test_the_fast_engines_are_cached_too(tmp_path: Path) -> None:
    ofa, teacher, _ = learning(tmp_path, teacher_engine="auto")
    first = ofa(*full())[1]
    assert difference(first, teacher(*full())) < 1e-5
    assert bits(ofa(*full())[1]) == bits(first)
    assert ofa.teacher_cache is not None
    assert ofa.teacher_cache.hits == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"directory": ""}, "directory '' is not a path"),
        ({"directory": 3}, "directory 3 is not a path"),
        ({"directory": __file__}, "is a file"),
        ({"rows": 0}, "rows 0 is not a whole number of at least 1"),
        ({"rows": True}, "rows True"),
        ({"max_bytes": 1.5}, "max_bytes 1.5"),
        ({"pad_token_id": "0"}, "pad_token_id '0' is not a whole number or None"),
    ],
)
def test_values_that_mean_nothing_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherCache(**{"directory": "cache", "rows": 5, **given})


def test_a_cache_needs_a_teacher_that_stays(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, rows=5)
    with pytest.raises(ConfigError, match="cache_teacher was given, but the teacher is 'self'"):
        DistillConfig(teacher_model="self", cache_teacher=cache)
    with pytest.raises(ConfigError, match="cache_teacher was given without a teacher_model"):
        DistillConfig(cache_teacher=cache)
    given: Any = str(tmp_path)
    with pytest.raises(ConfigError, match="is not a TeacherCache or None"):
        DistillConfig(teacher_model=bert(), cache_teacher=given)
    assert learning(None)[0].teacher_cache is None


def test_inputs_and_answers_without_rows_are_refused(tmp_path: Path) -> None:
    ids = full()[0]
    cached = Cached(tmp_path, words())
    with pytest.raises(ConfigError, match=r"dimension 0 is not the batch in all inputs: shapes \[\[3, 7\], \[2\]\]"):
        cached(ids, flag=paddle.ones([2]))
    with pytest.raises(ConfigError, match=r"dimension 0 is not the batch"):
        cached(ids, flag=paddle.to_tensor(1.0))
    with pytest.raises(ConfigError, match="an input is a ndarray"):
        cached(ids, flag=np.zeros(3))
    assert cached.calls == 0
    outputs: list[tuple[Any, str]] = [
        (lambda hidden, mask: hidden.mean(), r"answer to 3 rows has float32 \[\]"),
        (lambda hidden, mask: hidden.transpose([1, 0, 2]), r"answer to 3 rows has float32 \[7, 3, 4\]"),
        (lambda hidden, mask: {1, 2}, "the teacher's output holds a set"),
    ]
    for output, message in outputs:
        with pytest.raises(ConfigError, match=message):
            Cached(tmp_path, words(output))(ids)
    assert not list(tmp_path.iterdir())
    fussy = words(lambda hidden, mask: hidden.sum(-1) if hidden.shape[1] == 7 else json.loads("{"))
    with pytest.raises(ConfigError, match="as wide as the batch is padded, and whether that is a coincidence"):
        Cached(tmp_path, fussy)(ids)


def test_teachers_that_compute_something_else_with_the_same_weights_have_other_keys() -> None:
    from paddle import nn

    from ofa_slim.train.teacher.keys import teacher_key

    def encoder(heads: int, activation: str) -> nn.Layer:
        paddle.seed(0)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, heads, 24, activation=activation), 1)

    assert teacher_key(encoder(4, "gelu")) == teacher_key(encoder(4, "gelu"))
    assert len({teacher_key(encoder(*kind)) for kind in ((4, "gelu"), (2, "gelu"), (4, "relu"))}) == 3
