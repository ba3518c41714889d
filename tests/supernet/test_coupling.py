"""Which widths must agree, found by tracing, on models of linear layers."""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from models import difference
from ofa_slim import OFA, Convert, supernet
from ofa_slim.errors import ConfigError, ConvertError


class Built(nn.Layer):
    """Layers by name and a forward that is given."""

    def __init__(self, forward: Callable[..., paddle.Tensor], **layers: nn.Layer) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: paddle.Tensor) -> paddle.Tensor:
        return self.run(self, *inputs)


def traced(model: nn.Layer, *inputs: paddle.Tensor) -> OFA:
    model.eval()
    expected = model(*inputs)
    Convert(supernet(expand_ratio=[1.0, 0.5, 0.25])).convert(model)
    ofa = OFA(model, example_inputs=inputs)
    with ofa.subnet(ofa.search_space.largest()):
        assert difference(ofa(*inputs), expected) == 0
    config = ofa.search_space.smallest()
    with ofa.subnet(config):
        small = ofa(*inputs)
    plain = ofa.export(config=config, input_shapes=[list(x.shape) for x in inputs])
    assert difference(plain(*inputs), small) < 1e-5
    return ofa


def axes(ofa: OFA) -> dict[str, tuple[int, ...]]:
    return {axis.name: axis.choices for axis in ofa.search_space.axes if axis.elastic}


def reason(ofa: OFA, layer: str) -> str:
    return next(fixed.reason for fixed in ofa.search_space.fixed if fixed.layer == layer)


X = paddle.ones([3, 8])


def test_a_chain_is_free_but_for_its_output() -> None:
    ofa = traced(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.LayerNorm(12), nn.Linear(12, 4)), X)
    assert axes(ofa) == {"0": (4, 8, 16), "2": (3, 6, 12)}
    assert reason(ofa, "4") == "it is an output of the model"


def test_a_residual_sum_ties_what_it_adds() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        h = self.a(x)
        return self.c(h * F.sigmoid(self.b(h)) + h)

    ofa = traced(Built(forward, a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 2)), X)
    assert axes(ofa) == {"a": (4, 8, 16)}
    assert set(ofa.ofa_layers) == {"a"}


def test_a_concatenation_keeps_its_parts_at_their_offsets() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        return self.c(paddle.concat([self.a(x), x, self.b(x)], axis=-1))

    model = Built(forward, a=nn.Linear(8, 12), b=nn.Linear(8, 16), c=nn.Linear(36, 2))
    ofa = traced(model, X)
    assert axes(ofa) == {"a": (3, 6, 12), "b": (4, 8, 16)}
    ofa.set_net_config({"a": {"expand_ratio": 0.5}, "b": {"expand_ratio": 0.25}})
    ofa(X).sum().backward()
    rows = (model.c.weight.grad.abs().sum(axis=1) > 0).numpy().nonzero()[0].tolist()
    assert set(rows) <= {*range(6), *range(12, 20), *range(20, 24)}


@pytest.mark.parametrize("widths", [(1, 7), (7, 1), (1, 1)])
def test_a_concatenation_of_parts_that_all_stay_whole_is_whole(widths: tuple[int, int]) -> None:
    one, other = (nn.Sequential(nn.Linear(8, width), nn.GroupNorm(width, width)) for width in widths)
    both = sum(widths)
    ofa = traced(
        Built(
            lambda net, x: net.head(net.mix(paddle.concat([net.one(x), net.other(x)], axis=1))),
            one=one, other=other, mix=nn.Linear(both, 8), head=nn.Linear(8, 2),
        ),
        X,
    )  # fmt: skip
    assert "mix" in axes(ofa)


def test_a_flattened_map_is_cut_in_whole_channels() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        h = self.a(x.unsqueeze(1).expand([3, 5, 8])).transpose([0, 2, 1])
        return self.b(h.flatten(1))

    model = Built(forward, a=nn.Linear(8, 8), b=nn.Linear(40, 2))
    ofa = traced(model, X)
    assert axes(ofa) == {"a": (2, 4, 8)}
    with ofa.subnet(ofa.search_space.smallest()):
        ofa(X).sum().backward()
    assert float(model.b.weight.grad[10:].abs().sum()) == 0


def test_heads_that_are_counted_in_the_forward_are_cut_whole() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        x = x.reshape([3, 2, 4])
        q, k, v = (layer(x).reshape([3, 2, -1, 4]).transpose([0, 2, 1, 3]) for layer in (self.q, self.k, self.v))
        h = F.softmax(q.matmul(k, transpose_y=True)).matmul(v)
        return self.out(h.transpose([0, 2, 1, 3]).flatten(2))

    model = Built(forward, q=nn.Linear(4, 16), k=nn.Linear(4, 16), v=nn.Linear(4, 16), out=nn.Linear(16, 4))
    ofa = traced(model, X)
    assert axes(ofa) == {"q": (1, 2, 4)}
    assert {slot.unit for slot in ofa.search_space["q"].slots} == {4}


def test_what_names_a_width_stays_whole_and_is_explained() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        return self.c(self.b(self.a(x)).reshape([3, 16]))

    ofa = traced(Built(forward, a=nn.Linear(8, 12), b=nn.Linear(12, 16), c=nn.Linear(16, 2)), X)
    assert axes(ofa) == {"a": (3, 6, 12)}
    assert "the forward fails" in reason(ofa, "b")


@pytest.mark.parametrize(
    ("meet", "said"),
    [
        (lambda self, h, x: h + x, "input 'input_0'"),
        (lambda self, h, x: h * paddle.arange(8.0), "the result of 'arange'"),
    ],
)
def test_an_input_and_a_constant_keep_what_they_meet(meet: Callable[..., paddle.Tensor], said: str) -> None:
    model = Built(lambda self, x: self.b(meet(self, self.a(x), x)), a=nn.Linear(8, 8), b=nn.Linear(8, 2))
    ofa = traced(model, X)
    assert axes(ofa) == {}
    assert reason(ofa, "a") == f"it meets the fixed size of {said}"


def test_tied_and_reused_layers_are_one() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        h = self.b(self.b(self.a(x)))
        return self.head(h)

    ofa = traced(Built(forward, a=nn.Linear(8, 16), b=nn.Linear(16, 16), head=nn.Linear(16, 2)), X)
    assert axes(ofa) == {"a": (4, 8, 16)}


def test_a_weight_that_is_used_without_its_layer_stays_whole() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        return self.c(F.linear(self.b(x), self.a.weight))

    ofa = traced(Built(forward, a=nn.Linear(8, 12, bias_attr=False), b=nn.Linear(8, 8), c=nn.Linear(12, 2)), X)
    assert axes(ofa) == {}
    assert "the forward fails" in reason(ofa, "a")


def test_control_flow_that_depends_on_data_keeps_what_passes_it() -> None:
    class Branches(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            h = self.b(self.a(x))
            if h.mean() > 0:
                h = h * 2
            return self.c(h)

    ofa = traced(Branches(), X)
    assert set(axes(ofa)) == {"a"}
    assert reason(ofa, "b") == "it passes through control flow that depends on data"


def test_a_layer_that_the_example_does_not_reach_stays_whole() -> None:
    ofa = traced(Built(lambda self, x: self.c(self.a(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 2)), X)
    assert set(axes(ofa)) == {"a"}
    assert reason(ofa, "b") == "the traced forward does not use it"


def test_equal_splits_shrink_together_and_others_stay_whole() -> None:
    def gated(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        value, gate = self.a(x).chunk(2, axis=-1)
        return self.b(value * F.sigmoid(gate))

    ofa = traced(Built(gated, a=nn.Linear(8, 16), b=nn.Linear(8, 2)), X)
    assert axes(ofa) == {"a": (2, 4, 8)}
    assert [slot.starts for slot in ofa.search_space["a"].slots if slot.layer == "a"] == [(0, 8)]

    def uneven(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        left, right = paddle.split(self.a(x), [4, 12], axis=-1)
        return self.b(left) + self.c(right)

    ofa = traced(Built(uneven, a=nn.Linear(8, 16), b=nn.Linear(4, 2), c=nn.Linear(12, 2)), X)
    assert axes(ofa) == {}
    assert reason(ofa, "a").startswith("at a smaller width the forward fails: ValueError")


def test_the_first_batch_serves_where_no_example_was_given(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 2))
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model))
    with pytest.raises(ConfigError, match=r"not known before its first batch; give OFA\(..., example_inputs=...\)"):
        _ = ofa.search_space
    ofa.set_task("width")
    ofa.set_net_config({"0": {"expand_ratio": 0.5}})
    with caplog.at_level("INFO", logger="ofa_slim"):
        ofa(X)
    assert [record.message for record in caplog.records] == [
        "the first batch serves as the example that shows which widths must agree"
    ]
    assert ofa.current_config == {"0": {"expand_ratio": 0.5}}


def test_a_forward_that_cannot_be_traced_is_refused_with_what_it_says() -> None:
    def forward(self: Built, x: paddle.Tensor) -> paddle.Tensor:
        return self.b(paddle.to_tensor(self.a(x).numpy()))

    model = Built(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 2))
    Convert(supernet(expand_ratio=[0.5])).convert(model)
    with pytest.raises(ConvertError, match="the forward of Built cannot be traced"):
        OFA(model, example_inputs=X)
