"""Every family of PaddleNLP: scores, reordering, sub-networks, export and files, at tiny shapes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from families import FAMILIES, HEADS, HIDDEN, LAYERS, NEURONS, VOCABULARY, each_family, inputs, outputs, tokens
from models import difference
from ofa_slim import (
    OFA,
    Convert,
    DistillConfig,
    RunConfig,
    SubnetConfig,
    dynabert_config,
    load_subnet,
    save_subnet,
    supernet,
    to_static,
)
from ofa_slim.errors import ConfigError, ConvertError, ExportError, ImportanceError
from ofa_slim.importance import compute_neuron_head_importance, reorder_head, reorder_neuron_head
from ofa_slim.measure.cost import CostModel
from ofa_slim.supernet.layers import ElasticLayer
from ofa_slim.tasks.language_modelling import LanguageModelling
from releases import PADDLENLP_3

CLOSE = 1e-4
# Parameters of a block that reordering moves; these have no biases.
MOVED = {"llama": 7, "llama-fused": 4, "mistral": 6, "gemma": 7}
every_family = each_family()


def converted(name: str) -> OFA:
    return OFA(Convert(supernet(expand_ratio=[1.0, 0.5, 0.25])).convert(FAMILIES[name]()))


def same(found: list[paddle.Tensor], expected: list[paddle.Tensor], close: float = CLOSE) -> bool:
    largest = max(1.0, *(float(one.abs().max()) for one in expected))
    return all(difference(one, other) < close * largest for one, other in zip(found, expected, strict=True))


def loss(answer: Any, labels: paddle.Tensor) -> paddle.Tensor:
    """Some scalar that every output has a share in; the labels weigh it."""
    answers = answer if isinstance(answer, (tuple, list)) else [answer]
    return paddle.add_n([(one.astype("float32") ** 2).mean() for one in answers]) * labels.mean()


def batches(name: str) -> list[dict[str, Any]]:
    return [{**inputs(name, seed=seed), "labels": paddle.full([1], 0.5 + seed)} for seed in range(2)]


def scored(model: nn.Layer, name: str, blocks: int) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    return compute_neuron_head_importance(name, model, batches(name), blocks, HEADS, loss_fct=loss)


def blocks_of(name: str) -> int:
    return 1 if name == "albert" else LAYERS


@every_family
def test_reordering_by_importance_does_not_change_what_the_model_computes(name: str) -> None:
    model, batch = FAMILIES[name](), inputs(name)
    expected = outputs(model, batch)
    before = {key: value.numpy() for key, value in model.state_dict().items()}
    heads, neurons = scored(model, name, blocks_of(name))
    assert heads.shape == [blocks_of(name), HEADS]
    widths = [4 * HIDDEN if name == "ernie-m" else NEURONS]  # ERNIE-M's is always four times the hidden size
    assert [list(one.shape) for one in neurons] == [widths] * blocks_of(name)
    assert float(heads.min()) >= 0
    assert float(heads.max()) > 0
    reorder_neuron_head(model, heads, neurons)
    moved = [key for key, value in model.state_dict().items() if not np.array_equal(value.numpy(), before[key])]
    assert len(moved) >= MOVED.get(name, 8) * blocks_of(name) - 2
    assert same(outputs(model, batch), expected)
    # The most important come first now, for those that every block can order by itself.
    again, _ = scored(model, name, blocks_of(name))
    total = again.sum(axis=0) if name in ("mpnet", "ernie-layout") else again[0]
    assert np.all(np.diff(total.numpy()) <= 1e-3 * float(total.max()))


@every_family
def test_an_exported_subnet_computes_what_the_supernet_does(name: str) -> None:
    ofa, batch = converted(name), inputs(name)
    costs = CostModel.of(ofa, [batch])
    rng = np.random.default_rng(0)
    for _ in range(20):
        config = ofa.search_space.complete(
            {axis.name: int(rng.integers(axis.least, axis.size + 1)) for axis in ofa.search_space.axes}
        )
        with ofa.subnet(config):
            expected = outputs(ofa.model, batch)
        plain = ofa.export(config=config, input_shapes=[batch])
        plain.eval()
        assert same(outputs(plain, batch), expected)
        assert not any(isinstance(layer, ElasticLayer) for layer in plain.sublayers(include_self=True))
        assert costs(config).params == sum(int(parameter.size) for parameter in plain.parameters())
    smallest = ofa.search_space.smallest()
    assert costs(smallest).flops < costs(ofa.search_space.largest()).flops


@every_family
def test_at_full_size_nothing_changes_and_reloading_gives_the_same(name: str, tmp_path: Path) -> None:
    model, batch = FAMILIES[name](), inputs(name)
    keys, expected = list(model.state_dict()), outputs(model, batch)
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model))
    assert list(ofa.model.state_dict()) == keys
    with ofa.subnet(ofa.search_space.largest()):
        assert all(difference(*pair) == 0 for pair in zip(outputs(ofa.model, batch), expected, strict=True))
    depth = 2 / LAYERS
    config = dynabert_config(ofa, 0.5, depth)
    with ofa.subnet(config):
        half = outputs(ofa.model, batch)
    assert not same(half, expected)
    save_subnet(ofa.export(config=config, input_shapes=[batch]), tmp_path / "half", batch)
    loaded = load_subnet(tmp_path / "half")
    assert type(loaded) is type(FAMILIES[name]())
    assert same(outputs(loaded, batch), half)


@every_family
def test_weights_outside_the_active_slice_get_no_gradient(name: str) -> None:
    ofa, batch = converted(name), inputs(name)
    ofa.model.train()
    config = ofa.search_space.smallest()
    ofa.set_net_config(config)
    loss(ofa.model(**batch), paddle.ones([1])).backward()
    plain = ofa.export(config=config, input_shapes=[batch])
    sizes = {key: int(value.size) for key, value in plain.state_dict().items()}
    touched = 0
    for path, extents in ofa.search_space.layer_sizes(config).items():
        for key, parameter in dict(ofa.model.named_sublayers(include_self=True))[path].named_parameters(
            include_sublayers=False
        ):
            if parameter.grad is not None:
                touched += 1
                full = f"{path}.{key}".strip(".")
                assert int((parameter.grad != 0).sum()) <= sizes.get(full, parameter.size), (full, extents)
    assert touched


@pytest.mark.parametrize("name", ["nezha", "gpt"])
def test_heads_of_one_attention(name: str) -> None:
    model, batch = FAMILIES[name](), inputs(name)
    expected = outputs(model, batch)
    attention = next(layer for layer in model.sublayers() if type(layer).__name__.endswith("Attention"))
    before = attention.sublayers()[0].weight.numpy()
    reorder_head(attention, [2, 0, 3, 1])
    assert not np.array_equal(attention.sublayers()[0].weight.numpy(), before)
    assert same(outputs(model, batch), expected)


def test_heads_that_share_a_bias_cannot_be_reordered_alone() -> None:
    attention = next(layer for layer in FAMILIES["mpnet"]().sublayers() if type(layer).__name__ == "MPNetAttention")
    with pytest.raises(ImportanceError, match="MPNetAttention is not"):
        reorder_head(attention, [2, 0, 3, 1])


def test_an_albert_of_several_blocks_keeps_its_depth() -> None:
    model = FAMILIES["albert"](num_hidden_groups=3)
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model))
    assert [axis.name for axis in ofa.search_space.axes if axis.task == "depth"] == []
    assert "its 3 different blocks take turns" in ofa.search_space.explain()
    assert {"encoder.0.heads", "encoder.2.ffn"} <= {axis.name for axis in ofa.search_space.axes}


def test_a_fused_gpt_keeps_its_heads() -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(FAMILIES["gpt"](fuse_attention_qkv=True)))
    assert not any(axis.name.endswith("heads") for axis in ofa.search_space.axes)
    assert "the model has no such layer" in ofa.search_space.explain()
    assert ofa.search_space["decoder.0.ffn"].size == NEURONS


def test_gpt_trains_as_a_language_model() -> None:
    """Its largest sub-network learns a sequence, and so do those inside it, from it."""
    teacher, student = FAMILIES["gpt-lm"](), FAMILIES["gpt-lm"]()
    ids = inputs("gpt")["input_ids"]

    def next_token(logits: paddle.Tensor, answer: paddle.Tensor) -> paddle.Tensor:
        return F.kl_div(F.log_softmax(logits[:, :-1]), F.softmax(answer[:, :-1]), reduction="batchmean")

    ofa = OFA(
        Convert(supernet(expand_ratio=[1.0, 0.5])).convert(student),
        distill_config=DistillConfig(teacher_model=teacher, teacher_engine="dygraph"),
    )
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=ofa.parameters())
    configs = [dynabert_config(ofa, width) for width in (1.0, 0.5)]
    history = []
    for _ in range(12):
        history.append(float(ofa.train_step({"input_ids": ids}, next_token, configs)[1]))
        optimizer.step()
        optimizer.clear_grad()
    assert history[-1] < 0.5 * history[0]


class Mixing(nn.Layer):
    """An attention that no table knows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        def split(layer: nn.Layer) -> paddle.Tensor:
            return layer(x).reshape([x.shape[0], x.shape[1], self.heads, -1]).transpose([0, 2, 1, 3])

        weights = F.softmax(split(self.query) @ split(self.key).transpose([0, 1, 3, 2]))
        mixed = (weights @ split(self.value)).transpose([0, 2, 1, 3])
        return self.out(mixed.flatten(2))


def test_an_unknown_attention_is_explained() -> None:
    model = nn.Sequential(nn.Embedding(20, 8), Mixing(8, 2))
    with pytest.raises(ImportanceError, match=r"register_family, see docs/a-family-of-your-own\.md"):
        compute_neuron_head_importance("", model, [(paddle.ones([1, 3], "int64"), paddle.ones([1]))], 1, 2)


def test_the_biases_of_an_exported_ernie_layout_know_its_heads() -> None:
    """Its config does not: it says what the original had."""
    batch = inputs("ernie-layout")
    first = converted("ernie-layout")
    half = first.export(config=dynabert_config(first, 0.5), input_shapes=[batch])
    half.eval()
    expected = outputs(half, batch)
    heads, neurons = compute_neuron_head_importance(
        "", half, batches("ernie-layout"), LAYERS, HEADS // 2, loss_fct=loss
    )
    reorder_neuron_head(half, heads, neurons)
    assert same(outputs(half, batch), expected)
    again = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(half))
    assert again.search_space["encoder.heads"].size == HEADS // 2
    config = again.search_space.smallest()
    with again.subnet(config):
        expected = outputs(again.model, batch)
    quarter = again.export(config=config, input_shapes=[batch])
    assert same(outputs(quarter, batch), expected)


def test_a_model_that_needs_more_than_token_ids_says_so() -> None:
    with pytest.raises(ExportError, match=r"random inputs of the shapes \[\[2, 16\]\] .* give input_shapes"):
        converted("ernie-layout").export(config={"depth": 1})


def pickled(model: nn.Layer) -> nn.Layer:
    try:
        pickle.dumps(nn.Linear(1, 1))
    except TypeError as error:
        pytest.skip(f"this Paddle pickles no layer: {error}")
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@each_family(["nezha", "albert", "ernie-layout", "gpt", "bert"])
def test_supernets_are_copied_as_they_run(name: str, copied: Callable[[nn.Layer], nn.Layer]) -> None:
    ofa, batch = converted(name), inputs(name)
    with ofa.subnet(ofa.search_space.smallest()):
        expected = outputs(ofa.model, batch)
        other = copied(ofa.model)
    assert all(difference(*pair) == 0 for pair in zip(outputs(other, batch), expected, strict=True))
    assert [type(layer) for layer in other.sublayers()] == [type(layer) for layer in ofa.model.sublayers()]


def test_a_supernet_that_runs_in_part_does_not_teach() -> None:
    model = FAMILIES["bert"]()
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model))
    ofa.set_net_config(ofa.search_space.smallest())
    part = copy.deepcopy(model)
    with pytest.raises(ConfigError, match="a supernet that runs one of its sub-networks"):
        OFA(model, distill_config=DistillConfig(teacher_model=part))
    ofa.set_net_config(ofa.search_space.largest())
    OFA(model, distill_config=DistillConfig(teacher_model=copy.deepcopy(model)))


def test_why_a_depth_is_fixed_is_said() -> None:
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(FAMILIES["albert"](num_hidden_groups=3))
    with pytest.raises(ConfigError, match="its 3 different blocks take turns"):
        OFA(model, RunConfig(elastic_depth=[1, 3]))


@every_family
def test_a_step_gives_the_gradients_of_its_sub_networks_one_by_one(name: str) -> None:
    ofa, batch = converted(name), inputs(name)
    ofa.train()
    rng = np.random.default_rng(0)
    configs = [ofa.search_space.sample(rng) for _ in range(3)]

    def objective(answer: Any) -> paddle.Tensor:
        return loss(answer, paddle.ones([1]))

    def gradients() -> dict[str, np.ndarray]:
        named = ofa.model.named_parameters()
        found = {key: parameter.grad.numpy() for key, parameter in named if parameter.grad is not None}
        ofa.model.clear_gradients()
        return found

    ofa.train_step(batch, objective, configs)
    together = gradients()
    for config in configs:
        ofa.set_net_config(config)
        objective(ofa(**batch)).backward()
    alone = gradients()
    assert list(together) == list(alone)
    for key, expected in alone.items():
        # The true gradient of a key's bias is zero: what is left of it is rounding.
        assert np.abs(together[key] - expected).max() < 1e-5 * max(1.0, np.abs(expected).max()), key


def language_model(name: str = "llama", **own: Any) -> nn.Layer:
    """A decoder whose two heads of keys and values are read by two query heads each."""
    return FAMILIES[name](**{"num_attention_heads": 4, "num_key_value_heads": 2, **own})


def generated(model: nn.Layer, use_cache: bool) -> np.ndarray:
    ids = tokens(2, 5, seed=3)
    mask = paddle.ones(ids.shape, "bool")
    options = {"decode_strategy": "greedy_search", "max_new_tokens": 8, "use_cache": use_cache, "eos_token_id": -1}
    return model.generate(ids, attention_mask=mask, **options)[0].numpy()


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("llama", {}),
        ("llama", {"fuse_attention_qkv": True, "fuse_attention_ffn": True}),
        ("llama", {"num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1}),
        *((name, {}) for name in FAMILIES if name.startswith(("qwen2", "mistral", "gemma"))),
    ],
)
def test_decoders_generate_the_same_tokens_before_and_after_export(
    name: str, own: dict[str, Any], tmp_path: Path
) -> None:
    model = language_model(name, **own)
    ratios = [1.0, 0.5] if own.get("num_key_value_heads") != 1 else {"llama.0.ffn": [1.0, 0.5]}
    ofa = OFA(Convert(supernet(expand_ratio=ratios)).convert(model))
    rng, batch = np.random.default_rng(0), inputs(name)
    texts = set()
    for number in range(4):
        sizes = {axis.name: int(rng.integers(axis.least, axis.size + 1)) for axis in ofa.search_space.axes}
        config = ofa.search_space.complete(sizes)
        with ofa.subnet(config):
            expected = generated(ofa.model, use_cache=False)
            assert np.array_equal(generated(ofa.model, use_cache=True), expected)
        plain = ofa.export(config=config, input_shapes=[batch])
        plain.eval()
        save_subnet(plain, tmp_path / str(number), batch)
        for one in (plain, load_subnet(tmp_path / str(number))):
            for use_cache in (False, True):
                assert np.array_equal(generated(one, use_cache), expected)
        texts.add(expected.tobytes())
    assert len(texts) > 1


def test_a_model_of_few_places_is_exported_and_reloaded(tmp_path: Path) -> None:
    for number, model in enumerate(
        (language_model(max_position_embeddings=5), FAMILIES["bert"](max_position_embeddings=5))
    ):
        ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model))
        save_subnet(ofa.export(config=dynabert_config(ofa, 0.5)), tmp_path / str(number))


def test_a_head_of_keys_and_values_takes_its_queries_along() -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(language_model()))
    assert ofa.search_space["llama.0.heads"].size == 2
    plain = ofa.export(config=dynabert_config(ofa, 0.5), input_shapes=[inputs("llama")])
    attention = plain.llama.layers[0].self_attn
    assert (attention.num_heads, attention.num_key_value_heads) == (2, 1)
    assert attention.q_proj.weight.shape == [HIDDEN, 8]
    assert attention.k_proj.weight.shape == [HIDDEN, 4]


def test_the_work_of_a_llama_is_counted() -> None:
    """By hand, for 2 rows of 5 tokens."""
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(language_model()))
    found = CostModel.of(ofa, [{"input_ids": tokens(2, 5)}])(ofa.subnet_config(dynabert_config(ofa, 0.5, 2 / 3)))
    queries, keys, neurons = 2 * 4, 1 * 4, NEURONS // 2
    projections = HIDDEN * (2 * queries + 2 * keys + 3 * neurons)
    block = 10 * (projections + 2 * 2 * HIDDEN) + 2 * 5 * 5 * 2 * queries
    assert found.flops == 2 * block + 10 * (2 * HIDDEN + HIDDEN * VOCABULARY)


def test_channels_of_a_llama_are_those_of_its_queries() -> None:
    widths = [[8, 16], [12, 24]] * LAYERS
    ofa = OFA(Convert(supernet(channel=widths)).convert(language_model()))
    assert ofa.search_space["llama.0.heads"].choices == (1, 2)
    assert ofa.search_space["llama.0.ffn"].choices == (12, 24)


def test_a_llama_with_a_slope_for_each_head_keeps_its_heads() -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(language_model(alibi=True)))
    assert not any(axis.name.endswith("heads") for axis in ofa.search_space.axes)
    assert "ALiBi has a slope for each head" in ofa.search_space.explain()


def test_llama_learns_from_a_teacher_as_a_language_model() -> None:
    """The loss is that of the next token and of the teacher's probabilities for it."""
    teacher, student = language_model(), language_model()
    student.lm_head.weight.set_value(student.lm_head.weight * 0.5)
    ids = tokens(4, 9, seed=1)
    kind = LanguageModelling()

    def objective(answer: Any, wanted: Any) -> paddle.Tensor:
        return kind.loss(answer, ids) + kind.distance(kind.answer(answer), kind.answer(wanted), ids, None, 1.0)

    ofa = OFA(
        Convert(supernet(expand_ratio=[1.0, 0.5])).convert(student),
        distill_config=DistillConfig(teacher_model=teacher, teacher_engine="dygraph"),
    )
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=ofa.parameters())
    configs = [dynabert_config(ofa, width) for width in (1.0, 0.5)]
    history = []
    for _ in range(20):
        history.append(float(ofa.train_step({"input_ids": ids}, objective, configs)[1]))
        optimizer.step()
        optimizer.clear_grad()
    assert history[-1] < 0.7 * history[0]


class Unknown(nn.Layer):
    """A decoder of no known family, whose forward contains each of its widths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        x = self.embed(ids)
        y = self.query(x).reshape([ids.shape[0], ids.shape[1], 2, 4])
        return self.head(F.softmax(y, axis=-1).reshape([ids.shape[0], ids.shape[1], 8]) + x)


def test_a_model_in_which_nothing_is_elastic_says_why(caplog: pytest.LogCaptureFixture) -> None:
    ids = paddle.ones([2, 3], "int64")
    with caplog.at_level("WARNING", logger="ofa_slim"):
        ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(Unknown()), example_inputs=[ids])
    assert not any(axis.elastic for axis in ofa.search_space.axes)
    warning = next(record.getMessage() for record in caplog.records if "is elastic" in record.getMessage())
    assert warning.startswith("nothing in this Unknown is elastic: ")
    assert "head: it is an output of the model; embed: at a smaller width the forward fails" in warning


def test_a_known_decoder_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    converted("llama")
    assert not any("is elastic" in record.getMessage() for record in caplog.records)


@pytest.mark.skipif(PADDLENLP_3, reason="PaddleNLP 3's LLaMA can be made a program")
def test_a_program_of_a_llama_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot make a program of the forward of LlamaForCausalLM"):
        to_static(language_model(), tmp_path / "static")
    assert not list(tmp_path.iterdir())


def test_shares_of_uneven_heads_are_rounded_down_so_that_what_was_exported_goes_on() -> None:
    first = converted("bert")
    uneven = first.export(config=SubnetConfig({"encoder.0.heads": HEADS - 1, "encoder.1.heads": 1}))
    again = OFA(Convert(supernet(expand_ratio=[1.0, 0.5, 0.25])).convert(uneven))
    sizes = [again.search_space[f"encoder.{block}.heads"].choices for block in range(2)]
    expected = [sorted({max(1, int(share * heads)) for share in (1.0, 0.5, 0.25)}) for heads in (HEADS - 1, 1)]
    assert [list(choices) for choices in sizes] == expected
    config, batch = again.search_space.smallest(), inputs("bert")
    with again.subnet(config):
        wanted = outputs(again.model, batch)
    assert same(outputs(again.export(config=config), batch), wanted)


def test_a_share_of_equal_heads_has_to_give_a_whole_number() -> None:
    equal = converted("bert").export(
        config=SubnetConfig({f"encoder.{block}.heads": HEADS - 1 for block in range(LAYERS)})
    )
    with pytest.raises(ConvertError, match="is not a whole number; the ratios that give one are"):
        Convert(supernet(expand_ratio=[1.0, 0.5])).convert(equal)
