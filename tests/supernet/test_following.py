"""What a forward takes from attributes, splits and slices follows the widths: heads, parts and numbers."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

import naming_models as models
from ofa_slim import OFA, Convert, load_subnet, save_subnet, supernet
from ofa_slim.errors import ExportError
from ofa_slim.measure.cost import CostModel
from ofa_slim.supernet.layers import numbers_in
from ofa_slim.supernet.mending.running import Probe
from ofa_slim.supernet.mending.silenced import computes_the_same

SHAPE = [2, 3, 8, 8]
# The largest share of its weights that the smallest sub-network of each may have, and the axes that it must have.


def heads(name: str, count: int) -> dict[str, int]:
    """The axes of two blocks whose heads shrink by themselves, by the layer that makes them."""
    blocks = [{f"blocks.{n}.attention.{name}": count, f"blocks.{n}.fc1": 64} for n in range(2)]
    return {"patches": 32, **blocks[0], **blocks[1]}


KINDS = {
    models.Vit: (0.10, {"patches": 4, "blocks.0.fc1": 64, "blocks.1.fc1": 64}),
    models.Swin: (
        0.10,
        heads("qkv", 4),
    ),
    models.Pvt: (0.10, {"patches": 4, "blocks.0.fc1": 64, "blocks.1.fc1": 64}),
    models.Chunked: (0.10, {"patches": 4, "blocks.0.fc1": 64, "blocks.1.fc1": 64}),
    models.Grouped: (
        0.12,
        heads("q", 2),
    ),
    models.Inferred: (
        0.10,
        heads("qkv", 4),
    ),
    models.SeNet: (
        0.09,
        {
            "stem": 32,
            "convs.0": 32,
            "convs.1": 16,
            "excitations.0.squeeze": 8,
            "excitations.1.squeeze": 8,
            "excitations.2.squeeze": 4,
        },
    ),
    models.MixNet: (0.20, {"stem": 16, "stem.2": 8, "stem.3": 8, "body": 24}),
    models.FasterNet: (0.15, {"stem": 24, "stem.2": 8, "conv": 8, "body": 24}),
    models.ShuffleNet: (0.12, {"stem": 16, "body": 24}),
    models.GhostNet: (0.17, {"stem": 8, "stem.2": 8, "body": 12}),
    models.RexNet: (0.14, {"stem": 16, "body": 8, "last": 24}),
    models.Res2Net: (0.09, {"stem": 8, "convs.2": 8, "body": 24}),
}
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def converted(kind: type[nn.Layer]) -> tuple[OFA, nn.Layer]:
    paddle.seed(0)
    plain = kind()
    plain.eval()
    ofa = OFA(
        Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(copy.deepcopy(plain)),
        example_inputs=paddle.randn(SHAPE),
    )
    ofa.eval()
    return ofa, plain


def size(model: nn.Layer) -> int:
    return sum(parameter.size for parameter in model.parameters())


@EACH
def test_all_but_the_head_shrinks_and_each_export_equals_its_sub_network(kind: type[nn.Layer]) -> None:
    ofa, plain = converted(kind)
    share, axes = KINDS[kind]
    assert {axis.name: axis.size for axis in ofa.search_space.axes if axis.elastic} == axes
    assert [row.layer for row in ofa.search_space.fixed if row.layer != "head"] == []
    small = ofa.export(config=ofa.search_space.smallest(), input_shapes=SHAPE)
    assert size(small) <= share * size(plain)
    rng, x, costs = np.random.default_rng(0), paddle.randn(SHAPE), CostModel.of(ofa, [SHAPE])
    for _ in range(4):
        config = ofa.search_space.sample(rng)
        exported = ofa.export(config=config, input_shapes=SHAPE)
        exported.eval()
        ofa.set_net_config(config)
        np.testing.assert_allclose(exported(x).numpy(), ofa(x).numpy(), atol=1e-5)
        assert costs(config).params == size(exported)
    with ofa.subnet(ofa.search_space.largest()):
        np.testing.assert_allclose(ofa(x).numpy(), plain(x).numpy(), atol=1e-5)


@EACH
def test_a_sub_network_is_the_whole_model_with_channels_silenced(kind: type[nn.Layer]) -> None:
    ofa, _ = converted(kind)
    probe = Probe(ofa.supernet, ofa.supernet.example([SHAPE]))
    assert computes_the_same(probe, ofa.search_space.smallest())
    assert computes_the_same(probe, ofa.search_space.sample(np.random.default_rng(1)))


@EACH
def test_the_numbers_go_with_files_copies_and_the_origin(kind: type[nn.Layer], tmp_path: Path) -> None:
    ofa, plain = converted(kind)
    config, x = ofa.search_space.smallest(), paddle.randn(SHAPE)
    small = ofa.export(config=config, input_shapes=SHAPE)
    small.eval()
    expected = small(x).numpy()
    save_subnet(small, tmp_path / "saved")
    again = load_subnet(tmp_path / "saved", model=kind())
    for other in (again, copy.deepcopy(small), pickle.loads(pickle.dumps(copy.deepcopy(ofa.model)))):
        other.eval()
        if other is again:
            np.testing.assert_allclose(other(x).numpy(), expected, atol=1e-6)
    whole = [dict(numbers_in(layer)) for layer in plain.sublayers(include_self=True)]
    origin = ofa.export(origin_model=plain, config=config, input_shapes=SHAPE)
    origin.eval()
    np.testing.assert_allclose(origin(x).numpy(), expected, atol=1e-6)
    own = ofa.export(origin_model=kind(), config=config, input_shapes=SHAPE, load_weights_from_supernet=False)
    assert size(own) == size(small)
    assert [dict(numbers_in(layer)) for layer in kind().sublayers(include_self=True)] == whole


@EACH
def test_sub_networks_train_in_turn(kind: type[nn.Layer]) -> None:
    ofa, _ = converted(kind)
    ofa.train()
    configs = [ofa.search_space.smallest(), ofa.search_space.largest()]
    losses = ofa.train_step({"x": paddle.randn(SHAPE)}, lambda made: (made**2).mean(), configs)
    assert all(np.isfinite(float(loss)) for loss in losses)
    assert all(parameter.grad is not None for parameter in ofa.parameters() if not parameter.stop_gradient)


class Fused(models.SeNet):
    """In eval mode it makes a buffer of its scale, and it notes how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = self.create_parameter([1, 32, 1, 1], default_initializer=nn.initializer.Normal())

    def eval(self) -> nn.Layer:
        self.register_buffer("squared", self.scale**2, persistable=False)
        return super().eval()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.calls = vars(self).get("calls", 0) + 1
        x = self.excitations[0](nn.functional.relu(self.norm(self.stem(x))) * self.scale)
        x = self.excitations[1](nn.functional.relu(self.convs[0](x)))
        x = self.excitations[2](self.convs[1](x))
        return self.head(x.mean([2, 3]).reshape([-1, self.sizes["last"]]))


def test_a_mode_is_changed_at_full_size_and_only_changed_numbers_are_saved(tmp_path: Path) -> None:
    ofa, _ = converted(Fused)
    ofa.set_net_config(ofa.search_space.smallest())
    ofa.eval()
    ofa.model.eval()
    assert ofa.model.squared.shape == [1, 32, 1, 1]
    small = ofa.export(config=ofa.search_space.smallest(), input_shapes=SHAPE)
    small.eval()
    save_subnet(small, tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "subnet.json").read_text())
    assert about["numbers"][""] == {"sizes.last": 4}
    again = load_subnet(tmp_path / "saved", model=Fused())
    x = paddle.randn(SHAPE)
    np.testing.assert_allclose(again(x).numpy(), small(x).numpy(), atol=1e-6)
    for bad in ({"": {"sizes.last": 99}}, {"": {"calls": 1}}, {"excitations": {"num_channels": 8}}, [1]):
        (tmp_path / "saved" / "subnet.json").write_text(json.dumps({**about, "numbers": bad}))
        with pytest.raises(ExportError, match=r"subnet\.json gives layer"):
            load_subnet(tmp_path / "saved", model=Fused())


class Coincidence(nn.Layer):
    """Its number is a count of positions that happens to be the width."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = 16
        self.first, self.second = nn.Conv2D(3, 16, 1), nn.Linear(16, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.first(x).reshape([x.shape[0], -1, self.positions])
        return self.second(x.mean(1))


class InCode(nn.Layer):
    """The width is written in its code, which also names a number that happens to be the width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.limit = nn.Conv2D(3, 16, 1), nn.Linear(16, 3), 16

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.second(self.first(x).mean([2, 3]).clip(max=float(self.limit)).reshape([x.shape[0], 16]))


class TwoOfOneWidth(nn.Layer):
    """Two branches of one width, of which the second one is reshaped by the number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.width = nn.Linear(8, 16), nn.Linear(8, 16), 16
        self.ends = nn.LayerList([nn.Linear(16, 3), nn.Linear(16, 3)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        second = self.second(x).reshape([-1, self.width])
        return self.ends[0](self.first(x)) + self.ends[1](second)


def test_of_two_axes_of_one_width_the_number_follows_the_right_one() -> None:
    ofa = OFA(
        Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(TwoOfOneWidth()), example_inputs=paddle.randn([2, 8])
    )
    following = [axis.name for axis in ofa.search_space.axes for slot in axis.slots if slot.role == "=width"]
    assert following == ["second"]
    assert {axis.name for axis in ofa.search_space.axes if axis.elastic} == {"first", "second"}


@pytest.mark.parametrize(("kind", "elastic"), [(Coincidence, ["first"]), (InCode, [])])
def test_what_is_no_width_does_not_follow_one(kind: type[nn.Layer], elastic: list[str]) -> None:
    paddle.seed(0)
    model = kind()
    example = paddle.randn([2, 3, 4, 4])
    expected = model(example).numpy()
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model), example_inputs=example)
    assert [axis.name for axis in ofa.search_space.axes if axis.elastic] == elastic
    np.testing.assert_allclose(ofa(example).numpy(), expected, atol=1e-6)
    small = ofa.export(config=ofa.search_space.smallest(), input_shapes=[2, 3, 4, 4])
    assert dict(numbers_in(small)) == dict(numbers_in(kind()))
    assert type(ofa.model) is kind  # what was tried leaves nothing behind
