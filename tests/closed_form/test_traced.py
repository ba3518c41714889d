"""Orders and repair of convolutional models, whose axes are traced."""

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from ofa_slim import OFA, Convert, supernet
from ofa_slim.closed_form import Calibration, channel_removals, repair_layers
from ofa_slim.ordering.reorder import reorder_axis


class Net(nn.Layer):
    """A strided convolution, a residual one, a depthwise one and a pointwise one."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2D(3, 12, 3, stride=2, padding=1), nn.BatchNorm2D(12)
        self.inner, self.outer = nn.Conv2D(12, 10, 3, padding=1), nn.Conv2D(10, 12, 1)
        self.depthwise, self.point = nn.Conv2D(12, 12, 3, padding=1, groups=12), nn.Conv2D(12, 8, 1, bias_attr=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.relu(self.norm(self.stem(x)))
        x = x + self.outer(nn.functional.relu(self.inner(x)))
        return self.head(nn.functional.relu(self.point(self.depthwise(x))).mean([2, 3]))


@pytest.fixture
def ofa():
    paddle.seed(0)
    model = Net()
    model.eval()
    return OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model), example_inputs=images(2)[0])


def images(rows=32, batches=3):
    rng = np.random.default_rng(0)
    return [paddle.to_tensor(rng.standard_normal((rows, 3, 8, 8)).astype("float32")) for _ in range(batches)]


def exported(ofa, width):
    return ofa.export(config=ofa.search_space.uniform(width), input_shapes=[[2, 3, 8, 8]])


def test_order_of_channels_keeps_the_function(ofa):
    held_back = images(8, 5)[-1]
    before = ofa.model(held_back).numpy()
    found = channel_removals(ofa.model, ofa.search_space, Calibration(ofa.model, images()))
    assert found
    for name, one in found.items():
        reorder_axis(ofa.model, ofa.search_space[name], one.order)
        assert (np.diff(one.errors) <= 0).all()
    np.testing.assert_allclose(ofa.model(held_back).numpy(), before, atol=1e-4)


def test_repair_never_increases_the_error_of_a_layer(ofa):
    model = ofa.model
    small = exported(ofa, 0.5)
    held_back = images(32, 5)[-1]
    before = float(((model(held_back) - small(held_back)) ** 2).mean())
    sizes = ofa.search_space.layer_sizes(ofa.search_space.uniform(0.5))
    errors = repair_layers(small, model, sizes, Calibration(model, images()))
    assert [one.matrix for one in errors] == ["stem", "inner", "outer", "point", "head"]
    assert all(one.after <= one.before * (1 + 1e-6) for one in errors)
    assert float(((model(held_back) - small(held_back)) ** 2).mean()) < before / 2


def test_full_width_stays_as_it_is(ofa):
    small = exported(ofa, 1.0)
    before = {name: value.numpy().copy() for name, value in copy.deepcopy(small).state_dict().items()}
    sizes = ofa.search_space.layer_sizes(ofa.search_space.largest())
    repair_layers(small, ofa.model, sizes, Calibration(ofa.model, images()))
    assert all(np.array_equal(value, small.state_dict()[name].numpy()) for name, value in before.items())
