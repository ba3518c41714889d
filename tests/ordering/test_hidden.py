"""An elastic hidden size: found by tracing, cut everywhere at once, ordered by importance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from families import FAMILIES, HIDDEN, each_family, inputs, outputs
from models import batch, bert, difference, labels
from ofa_slim import OFA, Convert, DistillConfig, RunConfig, dynabert_config, load_subnet, save_subnet, supernet
from ofa_slim.base.clock import Rule
from ofa_slim.errors import ConfigError, ConvertError, ImportanceError
from ofa_slim.measure import LatencyTable
from ofa_slim.measure.cost import CostModel
from ofa_slim.ordering.hidden import compute_hidden_importance, reorder_hidden
from ofa_slim.search import SearchConfig
from ofa_slim.supernet.tied import tie, ties

CHOICES = (8, 12, HIDDEN)
LAYERS = 2  # finding the axis traces the model, which takes a second per layer
# The language model reads the embedding table itself, whole, to score the next token.
# TinyBERT's layers that learn from a teacher are not part of its forward.
UNUSED = {"tinybert": [HIDDEN]}
NEW = ("qwen2", "qwen2-tied", "mistral")  # of PaddleNLP 3
# Gemma multiplies its embeddings by a number for every channel.
MOST = [name for name in FAMILIES if name not in ("gpt-lm", "gemma")]


def family(name: str) -> nn.Layer:
    return FAMILIES[name](num_hidden_layers=LAYERS)


def converted(model: nn.Layer, run: RunConfig | None = None, **more: object) -> OFA:
    return OFA(Convert(supernet(expand_ratio=[1.0, 0.5], hidden_size=CHOICES)).convert(model), run, **more)


class TwoTables(nn.Layer):
    """An encoder that reads two texts by one table in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(20, HIDDEN), nn.Embedding(20, HIDDEN)
        self.second.weight = self.first.weight
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(HIDDEN, 2, 24, dropout=0.0), 2)
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, first: paddle.Tensor, second: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.encoder(self.first(first) + self.second(second)))


def test_a_table_that_two_layers_share_stays_shared(tmp_path: Path) -> None:
    ids = paddle.randint(0, 20, [2, 5]), paddle.randint(0, 20, [2, 5])
    model = TwoTables()
    ofa = converted(model, example_inputs=ids)
    config = ofa.search_space.complete({"hidden_size": 8})
    with ofa.subnet(config):
        expected = ofa.model(*ids)
    plain = ofa.export(config=config, input_shapes=list(ids))
    save_subnet(plain, tmp_path / "small")
    for one in (plain, load_subnet(tmp_path / "small", model=TwoTables())):
        assert one.first.weight is one.second.weight
        assert one.first.weight.shape == [20, 8]
        assert difference(one(*ids), expected) < 1e-5
    assert CostModel.of(ofa, list(ids))(config).params == sum(int(one.size) for one in plain.parameters())
    ofa.export(origin_model=(twin := TwoTables()), config=config, input_shapes=list(ids))
    assert twin.first.weight is twin.second.weight
    assert model.first.weight is model.second.weight


def test_only_parameters_with_the_same_numbers_become_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias_attr=False), nn.Linear(4, 4, bias_attr=False))
    model[1].weight = model[0].weight
    together = ties(model)
    first, other = (paddle.create_parameter([4, 2], "float32") for _ in range(2))
    model[0].weight, model[1].weight = first, other
    tie(together)
    assert model[1].weight is other
    other.set_value(first)
    tie(together)
    assert model[1].weight is first


@each_family(MOST)
def test_a_smaller_hidden_size_is_cut_in_every_layer(name: str, tmp_path: Path) -> None:
    model, given = family(name), inputs(name)
    expected = outputs(model, given)
    ofa = converted(model, example_inputs=given)
    axis = ofa.search_space["hidden_size"]
    assert (axis.size, axis.choices) == (HIDDEN, CHOICES)
    with ofa.subnet(ofa.search_space.largest()):
        assert all(difference(*pair) == 0 for pair in zip(outputs(ofa.model, given), expected, strict=True))
    costs, rng = CostModel.of(ofa, [given]), np.random.default_rng(0)
    for hidden in (8, 11):
        config = ofa.search_space.complete({**ofa.search_space.sample(rng), "hidden_size": hidden})
        with ofa.subnet(config):
            half = outputs(ofa.model, given)
        plain = ofa.export(config=config, input_shapes=[given])
        plain.eval()
        norms = [layer for layer in plain.sublayers() if type(layer).__name__.endswith("Norm")]
        assert hidden in {layer.weight.shape[0] for layer in norms}
        assert costs(config).params == sum(int(parameter.size) for parameter in plain.parameters())
        save_subnet(plain, tmp_path / str(hidden), given)
        for one in (plain, load_subnet(tmp_path / str(hidden))):
            assert all(difference(*pair) < 1e-5 for pair in zip(outputs(one, given), half, strict=True))
    small = [value for value in plain.state_dict().values() if HIDDEN in value.shape]
    whole = [value for value in model.state_dict().values() if HIDDEN in value.shape]
    assert len(small) < 0.4 * len(whole)
    # Whatever the model's head is called, it takes what is left of the hidden size.
    heads = [layer for path, layer in plain.named_sublayers() if isinstance(layer, nn.Linear) and "layer" not in path]
    assert {layer.weight.shape[0] for layer in heads} <= {hidden, 8, 3 * hidden} | set(UNUSED.get(name, ()))


@each_family(
    [name for name in ("bert", "electra", "mpnet", "gpt", "albert", "llama", *NEW) if name in FAMILIES],
    quick=["bert", "llama"],
)
def test_reordering_hidden_channels_does_not_change_what_the_model_computes(name: str) -> None:
    model, given = family(name), inputs(name)
    expected = outputs(model, given)
    ofa = converted(model)
    data = [{**given, "labels": labels(3)}]

    def objective(answer: Any, wanted: paddle.Tensor) -> paddle.Tensor:
        return F.cross_entropy(answer[0][:, -1] if isinstance(answer, tuple) else answer, wanted)

    scores = compute_hidden_importance(ofa, data, objective)
    assert scores.shape == [HIDDEN]
    assert float(scores.min()) >= 0
    assert float(scores.max()) > 0
    reorder_hidden(ofa, scores)
    with ofa.subnet(ofa.search_space.largest()):
        assert all(difference(*pair) < 1e-4 for pair in zip(outputs(ofa.model, given), expected, strict=True))
    assert np.all(np.diff(compute_hidden_importance(ofa, data, objective).numpy()) <= 1e-4)


def test_a_score_is_the_gradient_to_a_mask() -> None:
    """Against a BERT whose norms are multiplied by a mask of ones, channel by channel."""
    model, given, wanted = bert(), batch(), labels()
    ofa = converted(model)
    scores = compute_hidden_importance(ofa, [(*given, wanted)])
    masks = []

    def masked(layer: nn.Layer, inputs: object, output: paddle.Tensor) -> paddle.Tensor:
        mask = paddle.ones([HIDDEN])
        mask.stop_gradient = False
        masks.append(mask)
        return output * mask

    hooks = [layer.register_forward_post_hook(masked) for layer in model.sublayers() if isinstance(layer, nn.LayerNorm)]
    with ofa.subnet(ofa.search_space.largest()):
        grads = paddle.grad(F.cross_entropy(model(*given), wanted), masks)
    for hook in hooks:
        hook.remove()
    assert len(masks) == 5
    assert difference(paddle.add_n([grad.abs() for grad in grads]), scores) < 1e-5


def test_weights_outside_the_hidden_size_get_no_gradient() -> None:
    ofa = converted(bert())
    ofa.set_net_config(ofa.search_space.complete({"hidden_size": 8}))
    (ofa(*batch()) ** 2).sum().backward()
    model = ofa.model
    assert float(model.bert.embeddings.word_embeddings.weight.grad[:, 8:].abs().sum()) == 0
    assert float(model.bert.encoder.layers[0].linear1.weight.grad[8:].abs().sum()) == 0
    assert float(model.bert.encoder.layers[0].linear1.weight.grad[:8].abs().sum()) > 0
    assert float(model.bert.pooler.dense.weight.grad[8:].abs().sum()) == 0


def test_it_is_a_task_of_its_own() -> None:
    ofa = converted(bert(), RunConfig(elastic_depth=[1, 2]))
    assert ofa.search_space.tasks() == ("width", "hidden_size", "depth")
    assert ofa.search_space.uniform(0.5)["hidden_size"] == HIDDEN
    assert ofa.subnet_config(dynabert_config(ofa, 0.5))["hidden_size"] == HIDDEN
    ofa.set_task("hidden_size")
    ofa.train()
    seen = set()
    for _ in range(20):
        ofa(*batch())
        config = ofa.subnet_config(ofa.current_config)
        seen.add(config["hidden_size"])
        assert config["encoder.0.heads"] == 4
    assert seen == set(CHOICES)
    word = {"bert.embeddings.word_embeddings": {"channel": 12}}
    assert ofa.subnet_config(word)["hidden_size"] == 12


def test_it_learns_from_a_wider_teacher_through_a_projection() -> None:
    teacher, student = bert(), bert()
    distill = DistillConfig(
        teacher_model=teacher, mapping_layers=["bert.encoder.layers.1"], mapping_op="linear", teacher_engine="dygraph"
    )
    ofa = converted(student, distill_config=distill)
    config = ofa.search_space.complete({"hidden_size": 8})
    losses = ofa.train_step(batch(), lambda student, answer: F.mse_loss(student, answer), [config])
    assert float(losses[0]) > 0
    assert all(parameter.grad is not None for parameter in ofa.netAs_param)


@pytest.mark.slow
def test_a_search_has_hidden_sizes_among_its_candidates(tmp_path: Path) -> None:
    ofa = converted(bert())
    config = SearchConfig(
        candidates=24, directory=tmp_path / "search", winners=0, progress=False, input_shapes=[[1, 8], [1, 8]]
    )
    result = ofa.search(lambda net: -abs(net.net_config["hidden_size"] - 12), {"params_ratio": 0.9}, config)
    assert result.config["hidden_size"] == 12
    rule = Rule(warm_up=0, least=2, most=2)
    table = LatencyTable.build(ofa, input_shapes=[[1, 8], [1, 8]], rule=rule, progress=False)
    assert [block.across is not None for block in table.blocks] == [True] * LAYERS + [False] * 2, "pooler, classifier"
    timed = replace(config, directory=None, latency=table)
    result = ofa.search(lambda net: -abs(net.net_config["hidden_size"] - 12), {"latency_ratio": 1e6}, timed)
    assert result.config["hidden_size"] == 12
    assert result.best.costs["latency_ms"] == table.predict(result.config)


class Twin(nn.Layer):
    """Two towers over one table of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, HIDDEN)
        self.left, self.right = (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(HIDDEN, 4, 24, dropout=0.0), 2) for _ in range(2)
        )
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        x = self.table(ids)
        return self.head(self.left(x).mean(1) + self.right(x).mean(1))


def test_stacks_that_meet_in_a_sum_share_a_hidden_size() -> None:
    model, ids = Twin(), batch()[0]
    model.eval()
    expected = model(ids)
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5], hidden_size=CHOICES)).convert(model))
    assert [axis.name for axis in ofa.search_space.axes if axis.task == "hidden_size"] == ["hidden_size"]
    reorder_hidden(ofa, paddle.rand([HIDDEN]))
    with ofa.subnet(ofa.search_space.largest()):
        assert difference(ofa.model(ids), expected) < 1e-5
    with ofa.subnet(ofa.search_space.smallest()):
        small = ofa.model(ids)
    plain = ofa.export(config=ofa.search_space.smallest())
    assert plain.head.weight.shape == [8, 3]
    assert difference(plain(ids), small) < 1e-5


def test_what_reads_the_embedding_table_itself_keeps_it_whole() -> None:
    with pytest.raises(ConfigError, match="hidden_size: the model's forward fails at 8"):
        converted(FAMILIES["gpt-lm"](num_hidden_layers=1))
    with pytest.raises(ConfigError, match="hidden_size: the model's forward fails at 15"):
        OFA(Convert(supernet(hidden_size=[HIDDEN])).convert(FAMILIES["gpt-lm"](num_hidden_layers=1)))


@functools.cache
def untouched() -> OFA:
    """For calls that are refused: they leave it as it is."""
    return converted(bert(layers=1))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: supernet(hidden_size=[0]), ConvertError, "hidden_size 0 is not a whole number"),
        (lambda: supernet(hidden_size=12), ConvertError, "hidden_size 12 is not a list"),
        (lambda: Convert(supernet(hidden_size=[24])).convert(bert()), ConvertError, "24 is more than the 16"),
        (lambda: Convert(supernet(hidden_size=[8])).convert(nn.Linear(4, 4)), ConvertError, "has no stack"),
        (
            lambda: converted(family("ernie-layout")),
            ConfigError,
            "cannot run on token ids alone; give OFA",
        ),
        (
            lambda: compute_hidden_importance(OFA(Convert(supernet(expand_ratio=[1.0])).convert(bert())), []),
            ImportanceError,
            "no axis 'hidden_size'",
        ),
        (lambda: compute_hidden_importance(untouched(), []), ImportanceError, "no batch"),
        (lambda: reorder_hidden(untouched(), [1.0] * 3), ImportanceError, r"shape \[3\], expected \[16\]"),
        (lambda: reorder_hidden(untouched(), [float("nan")] * 16), ImportanceError, "16.* finite numbers"),
        (lambda: compute_hidden_importance(bert(), []), ConfigError, "this is a BertForSequenceClassification"),
    ],
)
def test_mistakes_are_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
