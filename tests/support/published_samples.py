"""What scripts for the published API do, each as a function of its own.

`main` runs some in this process, in order, and writes one line of JSON for each: its name and what it raised, or null.
Full names of layers (`conv2d_0`) count from the start of the process, so a sample that goes by them must be the first.
"""

from __future__ import annotations

import copy
import json
import traceback
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.vision.models import mobilenet_v1

from ofa_slim import OFA, Convert, DistillConfig, RunConfig, dynabert_config, set_state_dict, supernet
from ofa_slim.errors import ConfigError, ConvertError
from ofa_slim.importance import compute_neuron_head_importance, reorder_neuron_head
from ofa_slim.supernet import (
    Block,
    SuperBatchNorm2D,
    SuperConv2D,
    SuperConv2DTranspose,
    SuperDepthwiseConv2D,
    SuperDepthwiseConv2DTranspose,
    SuperEmbedding,
    SuperGroupConv2D,
    SuperGroupConv2DTranspose,
    SuperInstanceNorm2D,
    SuperLayerNorm,
    SuperLinear,
    SuperSeparableConv2D,
)

WIDER = {"conv2d_0": {"expand_ratio": 2}, "conv2d_1": {"expand_ratio": 2}}


def noise(*shape: int, dtype: str = "float32") -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, shape).astype(dtype))


# Elastic layers by themselves.


def conv2d() -> None:
    layer = SuperConv2D(3, 10, 3)
    assert layer(noise(10, 3, 32, 32), **{"channel": 5}).shape == [10, 5, 30, 30]


def conv2d_transpose_of_a_narrower_input() -> None:
    layer = SuperConv2DTranspose(32, 10, 3)
    assert layer(noise(32, 10, 32, 32), **{"channel": 5}).shape == [32, 5, 34, 34]


def grouped_and_depthwise_convolutions() -> None:
    x = noise(4, 8, 6, 6)
    assert SuperGroupConv2D(8, 16, 3, groups=2)(x, channel=8).shape == [4, 8, 4, 4]
    assert SuperDepthwiseConv2D(16, 16, 3, groups=16)(x).shape == [4, 8, 4, 4]
    assert SuperGroupConv2DTranspose(8, 16, 3, groups=2)(x, expand_ratio=0.5).shape == [4, 8, 8, 8]
    assert SuperDepthwiseConv2DTranspose(16, 16, 3, groups=16)(x).shape == [4, 8, 8, 8]


def separable_convolution() -> None:
    layer = SuperSeparableConv2D(32, 10, 3)
    assert layer(noise(4, 16, 8, 8), **{"channel": 5}).shape == [4, 5, 6, 6]


def linear() -> None:
    assert SuperLinear(64, 64)(noise(32, 64), **{"channel": 16}).shape == [32, 16]


def embedding() -> None:
    assert SuperEmbedding(64, 64)(noise(32, 64, dtype="int64"), **{"channel": 16}).shape == [32, 64, 16]


def norms() -> None:
    maps = paddle.rand([2, 5, 2, 3])
    assert SuperBatchNorm2D(5)(maps).shape == maps.shape
    assert SuperInstanceNorm2D(5)(maps).shape == maps.shape
    for x in (paddle.rand([2, 2, 2, 3]), paddle.rand([2, 3])):
        assert SuperLayerNorm(x.shape[1:])(x).shape == x.shape
        assert SuperLayerNorm(x.shape[-1])(x).shape == x.shape


def block() -> None:
    layer = Block(SuperConv2D(3, 4, 3, candidate_config={"kernel_size": (3, 5, 7)}))
    x = noise(1, 3, 9, 9)
    assert layer(x).shape == layer(x, kernel_size=3).shape == [1, 4, 7, 7]


def block_with_a_misspelt_key() -> None:
    with pytest.raises(ConvertError, match=r"key 'kerne_size', .*; did you mean 'kernel_size'\?$"):
        Block(SuperConv2D(3, 4, 3, candidate_config={"kerne_size": (3, 5, 7)}))


# The three ways to a supernet.


def whole_model() -> None:
    model = mobilenet_v1(scale=0.25)
    assert Convert(supernet(kernel_size=(3, 5, 7), expand_ratio=[1, 2, 4])).convert(model) is model
    assert sum(isinstance(layer, SuperConv2D) for layer in model.sublayers()) == 27


class Partly(nn.Layer):
    """Its first layers are elastic, the last one is not."""

    def __init__(self) -> None:
        super().__init__()
        with supernet(kernel_size=(3, 5, 7), expand_ratio=(1, 2, 4)) as converter:
            layers = converter.convert([nn.Conv2D(3, 4, 3, padding=1), nn.InstanceNorm2D(4)])
        self.models = nn.Sequential(*layers, nn.Conv2D(4, 4, 3, groups=4))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.models(x)


def part_of_a_model() -> None:
    model, x = Partly(), noise(2, 3, 8, 8)
    assert [type(layer) for layer in model.models] == [SuperConv2D, SuperInstanceNorm2D, nn.Conv2D]
    ofa = OFA(model, example_inputs=x)
    assert ofa.ofa_layers == {"models.0": {"kernel_size": (3, 5, 7)}}
    assert ofa(x).shape == [2, 4, 6, 6]


class ByHand(nn.Layer):
    """A supernet of elastic layers, which begins with what the published one consists of."""

    def __init__(self) -> None:
        super().__init__()
        first = SuperConv2D(3, 4, 3, candidate_config={"kernel_size": (3, 5, 7), "channel": (4, 8, 16)})
        self.models = nn.Sequential(Block(first), SuperBatchNorm2D(16), SuperConv2D(16, 2, 1))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.models(x)


def by_hand() -> None:
    x = noise(2, 3, 9, 9)
    front = nn.Sequential(*list(ByHand().models)[:2])
    assert OFA(front)(x).shape == [2, 16, 7, 7]  # as it is printed, its output is that of the model and stays
    ofa = OFA(ByHand())
    for width in (4, 8, 16):
        ofa.set_net_config({"models.0": {"kernel_size": 5, "channel": width}})
        assert ofa(x).shape == [2, 2, 7, 7]
        plain = ofa.export(config=ofa.net_config, input_shapes=[2, 3, 9, 9])
        assert plain.models[0].fn.weight.shape == [width, 3, 5, 5]


def a_list_is_no_layer() -> None:
    class Listed(ByHand):
        def __init__(self) -> None:
            super().__init__()
            del self.models
            self.models = [SuperConv2D(3, 4, 3)]

    with pytest.raises(ConvertError, match="this Listed is not a supernet"):
        OFA(Listed())


# Training.


SCHEDULE = {
    "train_batch_size": 1,
    "n_epochs": [[1], [2, 3], [4, 5]],
    "total_images": 12,
    "elastic_depth": (5, 15, 24),
    "dynamic_batch_size": [1, 1, 1],
}


class Deep(nn.Layer):
    """As many convolutions as its forward is told."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 4, 3, padding=1)
        self.body = nn.LayerList([nn.Conv2D(4, 4, 3, padding=1) for _ in range(24)])
        self.head = nn.Linear(4, 2)
        self.depths: list[int] = []

    def forward(self, x: paddle.Tensor, depth: int = 24) -> paddle.Tensor:
        self.depths.append(depth)
        x = self.stem(x)
        for layer in self.body[:depth]:
            x = x + F.relu(layer(x))
        return self.head(x.mean([2, 3]))


def progressive_shrinking() -> None:
    x, model = noise(1, 3, 6, 6), Deep()
    Convert(supernet(kernel_size=(3, 5), expand_ratio=[0.5, 1.0])).convert(model)
    ofa = OFA(model, run_config=RunConfig(**SCHEDULE), example_inputs=x)
    ofa.train()
    model.depths.clear()
    phases = []
    for _ in range(5):  # epochs of 12 batches: kernels, kernels and widths twice, depths of two, then of all
        seen = []
        for _ in range(12):
            ofa(x)
            seen.append(ofa.subnet_config(ofa.current_config))
        phases.append([{config[name] for config in seen} for name in ("body.0.kernel_size", "stem", "depth")])
    assert phases == [
        [{3, 5}, {4}, {24}],
        *[[{3, 5}, {2, 4}, {24}]] * 2,
        [{3, 5}, {2, 4}, {15, 24}],
        [{3, 5}, {2, 4}, {5, 15, 24}],
    ]
    assert set(model.depths) == {5, 15, 24}


def configs_of_the_tutorial() -> None:
    run = RunConfig(
        **{
            **SCHEDULE,
            "train_batch_size": 256,
            "init_learning_rate": [[0.001], [0.003, 0.001], [0.003, 0.001]],
            "total_images": 1281167,
            "elastic_depth": (2, 5, 8),
        }
    )
    model, teacher = mobilenet_v1(scale=0.25), mobilenet_v1(scale=0.25)
    Convert(supernet(kernel_size=(3, 5, 7), expand_ratio=[1, 2, 4])).convert(model)
    distill = DistillConfig(**{"teacher_model": teacher})
    x = noise(1, 3, 32, 32)
    ofa = OFA(model, run_config=run, distill_config=distill)
    with pytest.raises(ConfigError, match="its forward takes no depth"):
        ofa(x)  # this model has no use for the depths
    run = RunConfig(n_epochs=[[1], [2, 3]], dynamic_batch_size=[1, 1], train_batch_size=256, total_images=1281167)
    student, answer = OFA(model, run_config=run, distill_config=distill)(x)
    assert student.shape == answer.shape == [1, 1000]


class TwoConvs(nn.Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(3, width, 3, padding=1)
        self.models = nn.Sequential(nn.Conv2D(width, 2 * width, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(2 * width, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc(self.models(self.conv1(x)).mean([2, 3]))


def distillation_of_mapped_layers() -> None:
    x, teacher = noise(2, 3, 6, 6), TwoConvs(8)
    for mapped, op, count in ((["conv1", "models.0.fn"], "conv2d", 4), (["fc"], "linear", 2), (["conv1"], "conv", 2)):
        model = Convert(supernet(expand_ratio=[0.5, 1.0])).convert(TwoConvs(4))
        config = {
            "lambda_distill": 0.01,
            "teacher_model": teacher,
            "mapping_layers": mapped,
            "teacher_model_path": None,
            "distill_fn": None,
            "mapping_op": op,
        }
        ofa = OFA(model, distill_config=DistillConfig(**config), example_inputs=x)
        assert len(ofa.netAs_param) == count
        optimizer = paddle.optimizer.SGD(0.5, parameters=[*ofa.parameters(), *ofa.netAs_param])
        losses = []
        for _ in range(8):
            ofa.set_net_config(ofa.search_space.smallest())
            ofa(x)
            loss = ofa.calc_distill_loss()
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(loss))
        assert losses[-1] < losses[0]


def a_whole_training_of_a_bert() -> None:
    from models import batch, bert, labels

    model = bert(layers=2, heads=4)
    weights = dict(model.named_parameters())
    teacher = copy.deepcopy(model)
    model = Convert(supernet(expand_ratio=[0.25, 0.5, 0.75, 1.0])).convert(model)
    set_state_dict(model, weights)
    mapped = ["bert.embeddings", *(f"bert.encoder.layers.{i}" for i in range(2))]
    distill = DistillConfig(lambda_distill=0.1, teacher_model=teacher, mapping_layers=mapped)
    ofa = OFA(model, distill_config=distill)
    inputs = batch()
    scores = compute_neuron_head_importance("sst-2", ofa.model, [(*inputs, labels())], num_layers=2, num_heads=4)
    reorder_neuron_head(ofa.model, *scores)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=ofa.model.parameters())
    ofa.set_epoch(0)
    ofa.set_task("width")
    for width in (1.0, 0.75, 0.5, 0.25):
        ofa.set_net_config(dynabert_config(ofa, width))
        student, answer = ofa(*inputs)
        soft = F.cross_entropy(student, F.softmax(answer.detach()), soft_label=True)
        (ofa.calc_distill_loss() + 0.1 * soft).backward()
    optimizer.step()
    ofa.model.clear_gradients()


# By full names: each of these is the first in its process.


def sub_networks_by_full_name() -> None:
    model = mobilenet_v1()
    ofa = OFA(Convert(supernet(kernel_size=(3, 5, 7), expand_ratio=[1, 2, 4])).convert(model))
    ofa.set_epoch(3)
    ofa.set_task("width")
    ofa.set_net_config(WIDER)
    plain = mobilenet_v1()
    assert ofa.export(plain, WIDER, input_shapes=[1, 3, 28, 28], input_dtypes=["float32"]) is plain
    weights = [layer.weight for layer in plain.sublayers() if isinstance(layer, nn.Conv2D)][:3]
    # The first two have twice the 32 channels of the model, the next one all of its four times 64.
    assert [weight.shape for weight in weights] == [[64, 3, 7, 7], [64, 1, 7, 7], [256, 64, 1, 1]]
    images = noise(1, 3, 28, 28)
    plain.eval()
    ofa.eval()
    inside = ofa(images)
    assert float((plain(images) - inside).abs().max()) <= 1e-4 * max(1.0, float(inside.abs().max()))
    first = next(path for path, layer in model.named_sublayers() if isinstance(layer, nn.Conv2D))
    assert ofa.current_config[first] == {"kernel_size": 7, "expand_ratio": 2.0}
    ofa.set_net_config(ofa.current_config)
    assert float((ofa(images) - inside).abs().max()) == 0


def widths_of_named_layers() -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.Linear(8, 2))
    run = RunConfig(
        skip_layers=["linear_1"],
        ofa_layers={"embedding_0": {"expand_ratio": (0.5, 1)}, "linear_0": {"expand_ratio": (0.5, 1)}},
    )
    ids = paddle.arange(6)
    ofa = OFA(Convert(supernet(expand_ratio=(0.25, 0.5, 1))).convert(model), run, example_inputs=ids)
    assert ofa.ofa_layers == {"0": {"expand_ratio": (0.5, 1.0)}, "1": {"expand_ratio": (0.5, 1.0)}}
    ofa.set_net_config({"embedding_0": {"expand_ratio": 0.5}, "linear_0": {"channel": 3}})
    ofa(ids)
    assert ofa.current_config["1"] == {"expand_ratio": 0.25}
    small = ofa.export(config={"linear_0": {"expand_ratio": 0.5}}, input_shapes=[6], input_dtypes="int64")
    assert small[1].weight.shape == [8, 6]


def elastic_layers_by_their_own_names() -> None:
    block = Block(SuperConv2D(3, 8, 3, candidate_config={"channel": (2, 4, 8)}), key="conv2d_0")
    last = Block(SuperConv2D(8, 2, 1))
    ofa = OFA(nn.Sequential(block, nn.ReLU(), last), example_inputs=noise(1, 3, 8, 8))
    for name in ("0", "0.fn", "block_0", "conv2d_0", "super_conv2d_0"):
        assert ofa.subnet_config({name: {"channel": 4}})["0.fn"] == 4


def main(names: tuple[str, ...], file: Path) -> None:
    paddle.seed(0)
    with file.open("w") as lines:
        for name in names:
            error = None
            try:
                globals()[name]()
            except Exception:
                error = traceback.format_exc()
            print(json.dumps([name, error]), file=lines, flush=True)
