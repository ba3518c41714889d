from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import Tagger, batch, bert, difference, labels, ofa_of
from ofa_slim import OFA, Convert, dynabert_config, supernet
from ofa_slim.base.examples import random_example
from ofa_slim.errors import ExportError, IllegalSubnetError

SHAPES, DTYPES = [[2, 9], [2, 9]], ["int64", "int64"]


@pytest.fixture
def ofa() -> OFA:
    return ofa_of(bert(layers=3))


@pytest.fixture
def half(ofa: OFA) -> dict[str, Any]:
    return dynabert_config(ofa, 0.5, 2 / 3)


def expected(ofa: OFA, config: Any) -> paddle.Tensor:
    with ofa.subnet(config):
        return ofa(*batch())


def test_every_published_way_to_call_it(ofa: OFA, half: dict[str, Any]) -> None:
    def origin() -> nn.Layer:
        return bert(layers=3)

    for plain in (
        ofa.export(origin(), half, SHAPES, DTYPES),
        ofa.export(origin(), half, SHAPES, DTYPES, True),
        ofa.export(origin_model=origin(), config=half, input_shapes=SHAPES, input_dtypes=DTYPES),
        ofa.export(half, SHAPES, DTYPES),
        ofa.export(half, SHAPES, DTYPES, origin()),
        ofa.export(half, input_shapes=SHAPES, input_dtypes=DTYPES, origin_model=origin()),
        ofa.export(None, half, [2, 9], "int64"),
        ofa.export(config=half, input_shapes={"input_ids": [2, 9]}, input_dtypes="int64"),
        ofa.export(config=half, input_shapes=[[2, 9], {"token_type_ids": [2, 9]}], input_dtypes=DTYPES),
        ofa.export(config=half, input_shapes=[[None, -1]], input_dtypes=["int64"]),
        ofa.export(config=ofa.subnet_config(half)),
    ):
        plain.eval()
        assert difference(plain(*batch()), expected(ofa, half)) < 1e-5


def test_an_origin_is_cut_in_place_with_the_supernets_weights(ofa: OFA, half: dict[str, Any]) -> None:
    origin = bert(layers=3)
    plain = ofa.export(origin, half, SHAPES, DTYPES)
    assert plain is origin
    assert sum(p.size for p in plain.parameters()) < sum(p.size for p in ofa.parameters())
    assert plain.bert.encoder.layers[0].self_attn.num_heads == 2
    assert plain.bert.encoder.num_layers == 2
    # Nothing is shared: training the export leaves the supernet alone.
    own = {parameter.data_ptr() for parameter in ofa.parameters()}
    assert not own & {parameter.data_ptr() for parameter in plain.parameters()}


def test_an_origins_own_weights_can_be_cut(ofa: OFA, half: dict[str, Any]) -> None:
    origin = bert(layers=3)
    twin = ofa_of(copy.deepcopy(origin))
    plain = ofa.export(origin, half, SHAPES, DTYPES, load_weights_from_supernet=False)
    assert difference(plain(*batch()), expected(twin, half)) < 1e-5
    assert difference(plain(*batch()), expected(ofa, half)) > 1e-3


def test_a_copy_leaves_the_supernet_and_what_runs_in_it(ofa: OFA, half: dict[str, Any]) -> None:
    ofa.set_net_config(ofa.search_space.smallest())
    before = ofa(*batch())
    ofa.train()
    plain = ofa.export(config=half)
    assert plain is not ofa.model
    assert ofa.training
    assert ofa.model.training
    ofa.eval()
    assert difference(ofa(*batch()), before) == 0


def test_an_export_trains_on(ofa: OFA, half: dict[str, Any]) -> None:
    plain = ofa.export(config=half)
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=plain.parameters())
    losses = []
    plain.train()
    for _ in range(10):
        loss = nn.functional.cross_entropy(plain(*batch()), labels())
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in plain.parameters())


def test_an_exported_model_can_be_compressed_again(ofa: OFA, half: dict[str, Any]) -> None:
    again = ofa_of(ofa.export(config=half), ratios=[1.0, 0.5])
    assert again.search_space["encoder.0.heads"].size == 2
    plain = again.export(config=dynabert_config(again, 0.5))
    assert plain.bert.encoder.layers[0].self_attn.num_heads == 1


def state(model: nn.Layer) -> tuple[Any, ...]:
    return (
        [id(parameter) for parameter in model.parameters()],
        [id(layer) for layer in model.sublayers()],
        [type(layer) for layer in model.sublayers()],
        id(model.config),
        model.config.num_hidden_layers,
        {key: value.numpy().tobytes() for key, value in model.state_dict().items()},
    )


@pytest.mark.parametrize("load", [True, False])
def test_an_origin_is_untouched_when_the_check_fails(ofa: OFA, half: dict[str, Any], load: bool) -> None:
    origin = bert(layers=3)
    # Computes something else than the supernet, which only running both can show.
    origin.classifier.register_forward_post_hook(
        lambda layer, given, output: output * (1.01 if load else layer.training + paddle.rand([1]))
    )
    before = state(origin)
    with pytest.raises(ExportError, match=r"export: outputs differ by .* nothing was kept"):
        ofa.export(origin, half, SHAPES, DTYPES, load)
    assert state(origin) == before


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (lambda: bert(layers=2), "is in only one of the two"),
        (lambda: bert(layers=3, ffn=20), r"has shape \[16, 20\], in the supernet \[16, 24\]"),
        (lambda: Convert(supernet(expand_ratio=[1.0])).convert(bert(layers=3)), "origin_model is a supernet"),
        (lambda: "bert", "origin_model is a str"),
    ],
)
def test_another_structure_is_refused(ofa: OFA, half: dict[str, Any], origin: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        ofa.export(origin_model=origin(), config=half, input_shapes=SHAPES, input_dtypes=DTYPES)


def test_mistakes_are_named(ofa: OFA, half: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="export needs a config"):
        ofa.export(bert(layers=3))
    with pytest.raises(IllegalSubnetError, match="depth"):
        ofa.export(config={"depth": 7})
    with pytest.raises(ExportError, match="input_dtypes has 3 entries for 2 inputs"):
        ofa.export(half, SHAPES, ["int64"] * 3)
    with pytest.raises(ExportError, match="'ids' is not a shape"):
        ofa.export(half, ["ids"], ["int64"])


def test_configs_shared_with_other_models_are_left_alone(half: dict[str, Any]) -> None:
    from paddlenlp.transformers import BertForSequenceClassification

    origin = bert(layers=3)
    other = BertForSequenceClassification(origin.config)
    assert other.config is origin.config
    ofa_of(bert(layers=3)).export(origin, half, SHAPES, DTYPES)
    assert origin.config.num_hidden_layers == origin.bert.config.num_hidden_layers == 2
    assert other.config.num_hidden_layers == 3


def test_a_hand_written_model_is_exported() -> None:
    ofa = ofa_of(Tagger(layers=2))
    config = ofa.search_space.smallest()
    plain = ofa.export(config=config, input_shapes=[2, 5], input_dtypes="int64")
    with ofa.subnet(config):
        assert difference(plain(batch()[0]), ofa(batch()[0])) < 1e-5


def test_probes_read_within_each_embedding_and_are_padded() -> None:
    probe = random_example(bert(), SHAPES, DTYPES)
    ids, types = (np.asarray(tensor) for tensor in probe.args)
    assert 2 < ids.max() < 50
    assert (ids[-1, -2:] == 0).all()
    assert (ids[0] != 0).all()
    assert 2 <= types.max() < 16


def test_probes_of_other_dtypes_and_dictionary_inputs() -> None:
    class Odd(nn.Layer):
        def forward(self, inputs: dict[str, paddle.Tensor], mask: paddle.Tensor) -> paddle.Tensor:
            return inputs["x"] * mask.astype("float32")

    probe = random_example(Odd(), [{"x": [2, 3]}, [2, 3]], [{"x": "float32"}, "bool"])
    assert probe.args[0]["x"].dtype == paddle.float32
    assert probe.args[1].dtype == paddle.bool
    assert probe.outputs(Odd())[0].shape == [2, 3]
    with pytest.raises(ExportError, match="input_shapes is needed"):
        random_example(nn.Linear(2, 2))
