from __future__ import annotations

import paddle
import pytest
from paddle import nn

from models import Tagger, batch, bert, difference, encoder
from ofa_slim import OFA, Convert, set_state_dict, supernet
from ofa_slim.errors import ConvertError
from ofa_slim.supernet import SuperEmbedding, SuperLayerNorm, SuperLinear
from ofa_slim.supernet.handle import make_plain


def choices(model: nn.Layer) -> dict[str, tuple[int, ...]]:
    return {axis.name: axis.choices for axis in OFA(model).search_space.axes}


def test_layers_become_elastic_ones() -> None:
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(bert())
    assert isinstance(model.bert.embeddings.word_embeddings, SuperEmbedding)
    assert isinstance(model.bert.embeddings.layer_norm, SuperLayerNorm)
    assert isinstance(model.classifier, SuperLinear)
    assert model.bert.encoder.layers[0].linear1.candidate_config == {"expand_ratio": (1.0, 0.5)}


def test_ratios_give_the_choices_of_every_axis() -> None:
    model = Convert(supernet(expand_ratio=[1, 0.5, 0.25])).convert(encoder(1))
    assert choices(model) == {
        "encoder.0.heads": (1, 2, 4),
        "encoder.0.ffn": (6, 12, 24),
        "encoder.depth": (1,),
    }


def test_choices_may_differ_by_layer_or_axis() -> None:
    ratios = {"layers.0.linear1": [1.0, 0.5], "encoder.1.heads": [0.25, 1.0]}
    found = choices(Convert(supernet(expand_ratio=ratios)).convert(encoder(2)))
    assert found["encoder.0.ffn"] == (12, 24)
    assert found["encoder.1.heads"] == (1, 4)
    assert found["encoder.0.heads"] == (4,)
    assert found["encoder.1.ffn"] == (24,)


def test_a_layer_may_be_named_by_its_full_name() -> None:
    model = encoder(1)
    name = model.layers[0].linear1.full_name()
    assert choices(Convert(supernet(expand_ratio={name: [0.5]})).convert(model))["encoder.0.ffn"] == (12,)


def test_channels_give_choices_per_axis() -> None:
    context = supernet(channel=[(8, 16), (5, 24), None, (24,)])
    found = choices(Convert(context).convert(encoder(2)))
    assert [found[name] for name in ("encoder.0.heads", "encoder.0.ffn", "encoder.1.heads")] == [
        (2, 4),
        (5, 24),
        (4,),
    ]
    assert choices(Convert(supernet(channel=[4, 8])).convert(encoder(1)))["encoder.0.ffn"] == (4, 8)


def test_converting_again_changes_the_choices() -> None:
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(encoder(1))
    Convert(supernet(expand_ratio=[0.25])).convert(model)
    assert choices(model)["encoder.0.heads"] == (1,)


def test_the_context_form_and_a_converter_used_twice() -> None:
    with supernet(expand_ratio=[1.0, 0.5]) as converter:
        models = [converter.convert(encoder(1)), converter.convert(encoder(2))]
    assert [len(choices(model)) for model in models] == [3, 5]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"expand_ratio": [0.5], "channel": [4]}, "cannot both be given"),
        ({"expand_ratio": 0.5}, "expand_ratio 0.5 is not a list"),
        ({"expand_ratio": []}, "is not a list of choices"),
        ({"expand_ratio": ["0.5"]}, "'0.5' is not a number of at least 0"),
        ({"expand_ratio": [-0.5]}, "-0.5 is not a number of at least 0"),
        ({"expand_ratio": [0]}, r"expand_ratio \[0\] has no choice above 0"),
        ({"expand_ratio": [2]}, "expand_ratio 2 is not a number of at least 0 and at most 1"),
        ({"kernel_size": (3, 5)}, "no layer with an elastic kernel"),
        ({"expand_ratio": [0.3]}, r"axis 'encoder.0.heads': expand_ratio 0.3 of 4 .* 0.25, 0.5, 0.75, 1"),
        ({"expand_ratio": {"layers.0.linaer1": [1.0]}}, "called 'layers.0.linaer1'"),
        ({"expand_ratio": {"layers.0.linear2": [1.0]}}, "width of layer 'layers.0.linear2' is fixed"),
        ({"channel": [(4,)]}, "channel has 1 entries, but the model has 2 elastic axes: encoder.0.heads"),
        ({"channel": [6]}, "channel 6 is not a multiple of 4"),
        ({"channel": [32]}, "channel 32 is not a whole number between 0 and 16"),
    ],
)
def test_what_cannot_be_had_is_refused_and_the_model_untouched(asked: dict[str, object], message: str) -> None:
    model = encoder(1)
    with pytest.raises(ConvertError, match=message):
        Convert(supernet(**asked)).convert(model)  # type: ignore[arg-type]
    assert type(model.layers[0].linear1) is nn.Linear


def test_a_model_with_nothing_elastic_is_refused() -> None:
    with pytest.raises(ConvertError, match="nothing in this Dropout can be elastic"):
        Convert(supernet(expand_ratio=[0.5])).convert(nn.Dropout())
    with pytest.raises(ConvertError, match="cannot convert a tuple"):
        Convert(supernet(expand_ratio=[0.5])).convert((nn.Linear(2, 2),))  # type: ignore[type-var]
    with pytest.raises(ConvertError, match=r"a supernet\(...\) is needed"):
        Convert({"expand_ratio": [0.5]})  # type: ignore[arg-type]
    with pytest.raises(ConvertError, match="not a supernet; call Convert"):
        OFA(encoder(1))


def test_blocks_with_a_forward_of_their_own_stay_fixed_and_are_explained() -> None:
    class Mine(nn.TransformerEncoderLayer):
        def forward(self, src: paddle.Tensor, *args: object, **kwargs: object) -> paddle.Tensor:
            return src + self.linear2(nn.functional.relu(src @ self.linear1.weight))

    model = nn.LayerList([encoder(1), nn.TransformerEncoder(Mine(16, 4, 24), 1)])
    Convert(supernet(expand_ratio=[0.5])).convert(model)
    space = OFA(model).search_space
    assert [axis.name for axis in space.axes] == ["0.0.heads", "0.0.ffn", "0.depth", "1.depth"]
    assert "1.layers.0: Mine has its own forward" in space.explain()


def test_a_linear_with_an_adapter_stays_whole_and_says_what_to_do() -> None:
    class Adapted(nn.Linear):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return super().forward(x) + x

    model = encoder(1)
    model.layers[0].self_attn.q_proj = Adapted(16, 16)
    Convert(supernet(expand_ratio=[0.5])).convert(model)
    space = OFA(model).search_space
    assert [axis.name for axis in space.axes if axis.task == "width"] == ["encoder.0.ffn"]
    assert "Adapted is not a layer type that can be cut" in space.explain()
    assert "where it is an adapter, merge it" in space.explain()


def test_frozen_parameters_stay_frozen_through_export() -> None:
    model = encoder(1)
    model.layers[0].linear1.weight.stop_gradient = True
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model))
    plain = ofa.export(config=ofa.search_space.smallest(), input_shapes=[[2, 3, 16]])
    assert plain.layers[0].linear1.weight.stop_gradient
    assert not plain.layers[0].linear2.weight.stop_gradient


def test_make_plain_undoes_converting() -> None:
    model, inputs = bert(), batch()
    expected, classes = model(*inputs), [type(layer) for layer in model.sublayers()]
    attributes = [set(vars(layer)) for layer in model.sublayers()]
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model))
    ofa.set_net_config(ofa.search_space.smallest())
    make_plain(model)
    assert [type(layer) for layer in model.sublayers()] == classes
    assert [set(vars(layer)) for layer in model.sublayers()] == attributes
    assert difference(model(*inputs), expected) == 0


def test_set_state_dict_fills_leading_slices_and_reports_what_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Convert(supernet(expand_ratio=[1.0])).convert(Tagger())
    weight = model.body.layers[0].linear1.weight
    old = weight.numpy()
    small = paddle.full([10, 12], 7.0)
    missing, unused = set_state_dict(model, {"body.layers.0.linear1.weight": small, "lost": small})
    assert model.body.layers[0].linear1.weight is weight
    assert (weight.numpy()[:10, :12] == 7).all()
    assert (weight.numpy()[10:] == old[10:]).all()
    assert (weight.numpy()[:, 12:] == old[:, 12:]).all()
    assert unused == ["lost"]
    assert "head.weight" in missing
    assert "body.layers.0.linear1.weight" not in missing
    assert "lost" in caplog.text


def test_set_state_dict_changes_nothing_where_a_tensor_does_not_fit() -> None:
    model = Tagger()
    before = model.head.weight.numpy()
    state = {"head.weight": paddle.zeros([16, 5]), "head.bias": paddle.zeros([6])}
    with pytest.raises(ConvertError, match=r"head.bias: shape \[6\] does not fit into \[5\]"):
        set_state_dict(model, state)
    assert (model.head.weight.numpy() == before).all()
