"""Parameters and buffers that a forward reads by itself are cut with the widths that they agree with."""

import copy
import pickle

import numpy as np
import paddle
import pytest
from paddle import nn

from ofa_slim import OFA, Convert, load_subnet, save_subnet, supernet
from ofa_slim.measure.cost import CostModel

WIDTH = 16


class Scaled(nn.Layer):
    """A ConvNeXt-like block: a layer scale on maps, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = (
            nn.Conv2D(3, WIDTH, 3, padding=1),
            nn.Conv2D(WIDTH, 32, 1),
            nn.Conv2D(32, WIDTH, 1),
        )
        self.gamma = self.create_parameter([WIDTH, 1, 1], default_initializer=nn.initializer.Normal())
        self.register_buffer("shift", paddle.rand([1, WIDTH, 1, 1]))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.stem(x) + self.shift
        x = x + self.gamma * self.down(nn.functional.gelu(self.up(x)))
        return self.head(x.mean([2, 3]))


class Scale(nn.Layer):
    """A layer scale on sequences, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = self.create_parameter([WIDTH], default_initializer=nn.initializer.Normal())
        self.gain = self.create_parameter([1], default_initializer=nn.initializer.Constant(2.0))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.gamma * self.gain


class Positioned(nn.Layer):
    """A ViT-like stem: class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2D(3, WIDTH, 3, stride=3)
        self.token = self.create_parameter([1, 1, WIDTH], default_initializer=nn.initializer.Normal())
        self.positions = self.create_parameter([1, 5, WIDTH], default_initializer=nn.initializer.Normal())
        self.scale, self.norm, self.head = Scale(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.patches(x).flatten(2).transpose([0, 2, 1])
        x = paddle.concat([self.token.expand([x.shape[0], -1, -1]), x], axis=1) + self.positions
        return self.head(self.norm(self.scale(self.scale(x)))[:, 0])


class Listed(nn.Layer):
    """Parameters in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3)
        self.scales = nn.ParameterList([paddle.create_parameter([WIDTH], "float32") for _ in range(2)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.one(x.mean([2, 3]))
        for scale in self.scales:
            x = x * scale + self.scales[0]
        return self.two(x)


MODELS = [Scaled, Positioned, Listed]
IMAGES = [2, 3, 6, 6]


def made(kind: type[nn.Layer]) -> tuple[nn.Layer, OFA, paddle.Tensor]:
    paddle.seed(3)
    original = kind()
    original.eval()
    x = paddle.rand(IMAGES)
    ofa = OFA(Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(copy.deepcopy(original)), example_inputs=x)
    ofa.eval()
    return original, ofa, x


def free(model: nn.Layer) -> dict[str, paddle.Tensor]:
    names = ("gamma", "shift", "token", "positions", "scales.0", "scales.1", "scale.gamma")
    return {key: value for key, value in model.state_dict().items() if key in names}


@pytest.mark.parametrize("kind", MODELS)
def test_they_are_cut_with_the_width_and_the_whole_stays_the_original(kind: type[nn.Layer]) -> None:
    original, ofa, x = made(kind)
    with ofa.subnet(ofa.search_space.largest()):
        assert (ofa.model(x) == original(x)).all()
    assert ofa.model.state_dict().keys() == original.state_dict().keys()
    rng = np.random.default_rng(0)
    costs = CostModel.of(ofa, IMAGES)
    for config in (ofa.search_space.smallest(), *(ofa.search_space.sample(rng) for _ in range(3))):
        with ofa.subnet(config), paddle.no_grad():
            expected = ofa.model(x)
        small = ofa.export(config=config, input_shapes=IMAGES)
        small.eval()
        assert type(small) is kind
        assert float((small(x) - expected).abs().max()) < 1e-5
        assert costs(config).params == sum(parameter.size for parameter in small.parameters())
    small = ofa.export(config=ofa.search_space.smallest(), input_shapes=IMAGES)
    assert free(small)
    assert all(WIDTH // 4 in value.shape for value in free(small).values())
    assert all(WIDTH in value.shape for value in free(ofa.model).values())


@pytest.mark.parametrize("kind", MODELS)
def test_entries_outside_get_no_gradient_and_the_objects_stay(kind: type[nn.Layer]) -> None:
    _, ofa, x = made(kind)
    before = {name: id(parameter) for name, parameter in ofa.model.named_parameters()}
    ofa.train()
    ofa.set_net_config(ofa.search_space.smallest())
    ofa(x).sum().backward()
    trained = 0
    for name, parameter in ofa.model.named_parameters():
        assert before[name] == id(parameter)
        if name not in free(ofa.model):
            continue
        grad = parameter.grad.numpy()
        axis = grad.shape.index(WIDTH)
        kept, cut = np.split(grad, [WIDTH // 4], axis=axis)
        assert np.abs(kept).sum() > 0
        assert not cut.any()
        trained += 1
    assert trained


def test_a_copy_and_a_file_hold_them(tmp_path: object) -> None:
    original, ofa, x = made(Scaled)
    twin = copy.deepcopy(ofa.model)
    with ofa.subnet(ofa.search_space.smallest()):
        expected = ofa.model(x)
    assert (twin(x) == original(x)).all()
    small = ofa.export(config=ofa.search_space.smallest(), input_shapes=IMAGES)
    small.eval()
    assert (pickle.loads(pickle.dumps(small.gamma.numpy())) == small.gamma.numpy()).all()
    save_subnet(small, f"{tmp_path}/small")
    again = load_subnet(f"{tmp_path}/small", Scaled())
    assert float((again(x) - expected).abs().max()) < 1e-5


class Mixed(Scaled):
    """A forward that mixes the entries of its parameter: at a smaller width it would mean something else."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head((self.stem(x) * nn.functional.softmax(self.gamma, axis=0)).mean([2, 3]))


def test_what_mixes_its_entries_stays_whole() -> None:
    _, ofa, _ = made(Mixed)
    assert not [axis.name for axis in ofa.search_space.axes if axis.elastic and axis.name == "stem"]
    (reason,) = [row.reason for row in ofa.search_space.fixed if row.layer == "stem"]
    assert "softmax" in reason


class SetAnew(nn.Layer):
    """Its forward sets a buffer, as weight norm does before each call of a layer of the user's own class."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        self.register_buffer("seen", paddle.zeros([WIDTH]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        made = self.one(x)
        self.seen = self.seen + made.mean(0)
        return self.two(made - self.seen)


def test_what_a_forward_sets_anew_stays_whole() -> None:
    x = paddle.randn([2, 4])
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(SetAnew()), example_inputs=x)
    assert not any(axis.elastic for axis in ofa.search_space.axes)
    assert "parameter 'seen'" in ofa.search_space.explain()
    before = ofa.model.seen.numpy()
    ofa(x)
    assert (ofa.model.seen.numpy() != before).any()


class OwnLinear(nn.Linear):
    """A class of the user's, without a forward of its own."""


def test_weight_norm_on_a_layer_of_a_users_class_stays_whole_and_trains() -> None:
    x = paddle.randn([4, 4])
    model = nn.Sequential(nn.utils.weight_norm(OwnLinear(4, WIDTH)), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3))
    ofa = OFA(Convert(supernet(expand_ratio=[1.0])).convert(model), example_inputs=x)
    assert not [axis.name for axis in ofa.search_space.axes if not axis.fixed_reason]
    ofa.train_step([x], lambda output: output.sum(), [ofa.search_space.largest()])
    plain = ofa.export(config=ofa.search_space.largest(), input_shapes=[[4, 4]])
    assert float((plain(x) - model(x)).abs().max()) < 1e-5
