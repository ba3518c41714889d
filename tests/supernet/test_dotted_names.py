"""Layers whose names contain dots are found by every part that works with attribute paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ofa_slim import OFA, Convert, load_subnet, save_subnet, supernet
from ofa_slim.supernet.paths import layer_at


class Blocks(nn.Layer):
    """Two linear layers in a block "mlp.0", one of whose names begins with that of another layer."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Layer()
        block.add_sublayer("fc.1", nn.Linear(6, 12))
        block.add_sublayer("fc", nn.LayerList([nn.Linear(12, 8)]))
        self.add_sublayer("mlp.0", block)
        self.mlp = nn.LayerDict({"out.x": nn.Linear(8, 3)})

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        block = getattr(self, "mlp.0")
        x = nn.functional.relu(getattr(block, "fc.1")(x))
        return self.mlp["out.x"](nn.functional.relu(block.fc[0](x)))


def test_paths_lead_to_layers_whose_names_contain_dots() -> None:
    model = Blocks()
    for path, layer in model.named_sublayers(include_self=True):
        assert layer_at(model, path) is layer
    with pytest.raises(AttributeError, match=r"no layer at 'mlp\.0\.fc\.7'"):
        layer_at(model, "mlp.0.fc.7")


def test_sub_networks_run_and_are_exported_saved_and_read(tmp_path: Path) -> None:
    paddle.seed(0)
    x = paddle.randn([4, 6])
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(Blocks()), example_inputs=x)
    assert [axis.name for axis in ofa.search_space.axes if axis.elastic] == ["mlp.0.fc.1", "mlp.0.fc.0"]
    config = ofa.search_space.smallest()
    ofa.eval()
    with ofa.subnet(config), paddle.no_grad():
        expected = ofa(x).numpy()
    small = ofa.export(config=config, origin_model=Blocks(), input_shapes=[4, 6])
    np.testing.assert_allclose(small(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert getattr(getattr(small, "mlp.0"), "fc.1").weight.shape == [6, 6]
    save_subnet(small, tmp_path / "small")
    loaded = load_subnet(tmp_path / "small", Blocks())
    np.testing.assert_array_equal(loaded(x).numpy(), small(x).numpy())
