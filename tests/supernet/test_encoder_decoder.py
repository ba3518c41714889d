"""BART and T5: an encoder and a decoder that are both elastic, and the attention from one to the other."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from families import HEADS, HIDDEN, NEURONS, VOCABULARY, bart, outputs, t5, tokens
from models import difference
from ofa_slim import OFA, Convert, RunConfig, compress, load_subnet, save_subnet, supernet
from ofa_slim.closed_form import Calibration, obs_importance, reorder_by_obs, repair, statistics
from ofa_slim.closed_form.divergence import floats
from ofa_slim.importance import compute_neuron_head_importance, reorder_neuron_head
from ofa_slim.measure.cost import CostModel, measured_cost

LAYERS = 2
MODELS = {"bart": bart, "t5": t5, "t5-gated": partial(t5, feed_forward_proj="gated-gelu")}
each_model = pytest.mark.parametrize("name", MODELS)
CROSS = re.compile(r"(cross_attn\.q_proj|EncDecAttention\.q)$")


def texts(rows: int, seed: int) -> dict[str, paddle.Tensor]:
    """What the encoder reads, and what the decoder has written so far."""
    return {"input_ids": tokens(rows, 7, seed), "decoder_input_ids": tokens(rows, 5, seed + 100)}


BATCH = texts(3, 3)


def converted(model: nn.Layer, run: RunConfig | None = None) -> OFA:
    return OFA(Convert(supernet(expand_ratio=[1.0, 0.5, 0.25])).convert(model), run)


def random_config(ofa: OFA, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return ofa.search_space.complete(
        {axis.name: int(rng.integers(axis.least, axis.size + 1)) for axis in ofa.search_space.axes}
    )


def generated(model: nn.Layer, use_cache: bool) -> np.ndarray:
    options = {"decode_strategy": "greedy_search", "max_length": 6, "use_cache": use_cache, "eos_token_id": -1}
    options |= {"bos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0}
    return model.generate(BATCH["input_ids"], **options)[0].numpy()


def test_both_stacks_and_the_attention_between_them_are_elastic() -> None:
    ofa = converted(bart())
    kinds = [axis.name.rpartition(".")[2] for axis in ofa.search_space.axes]
    assert kinds == ["heads", "ffn"] * LAYERS + ["depth"] + ["heads", "cross_heads", "ffn"] * LAYERS + ["depth"]


def test_the_blocks_of_a_t5_share_their_heads_and_keep_the_first() -> None:
    ofa = converted(t5())
    names = [axis.name for axis in ofa.search_space.axes]
    ffn = ["0.ffn", "1.ffn"]
    assert names == [
        *(f"t5.encoder.{name}" for name in ("heads", *ffn)),
        *(f"t5.decoder.{name}" for name in ("heads", "cross_heads", *ffn)),
    ]
    assert "t5.decoder: its first block has the position biases of all" in ofa.search_space.explain()


@each_model
def test_sub_networks_are_exported_reloaded_and_counted(name: str, tmp_path: Path) -> None:
    ofa = converted(MODELS[name]())
    costs = CostModel.of(ofa, [BATCH])
    for seed in range(8):
        config = random_config(ofa, seed)
        with ofa.subnet(config), paddle.no_grad():
            expected = outputs(ofa.model, BATCH)
        plain = ofa.export(config=config, input_shapes=[BATCH])
        assert costs(config) == measured_cost(plain, costs._example)
        save_subnet(plain, tmp_path / str(seed), BATCH)
        for one in (plain, load_subnet(tmp_path / str(seed))):
            assert all(difference(*pair) < 1e-4 for pair in zip(outputs(one, BATCH), expected, strict=True))


@each_model
def test_the_same_tokens_are_generated_before_and_after_export(name: str) -> None:
    ofa, written = converted(MODELS[name]()), set()
    for seed in range(4):
        config = random_config(ofa, seed)
        with ofa.subnet(config):
            expected = generated(ofa.model, use_cache=False)
            assert np.array_equal(generated(ofa.model, use_cache=True), expected)
        plain = ofa.export(config=config, input_shapes=[BATCH])
        plain.eval()
        for use_cache in (False, True):
            assert np.array_equal(generated(plain, use_cache), expected)
        written.add(expected.tobytes())
    assert len(written) > 1


def test_heads_of_one_attention_alone_are_cut_where_they_are_asked_for() -> None:
    ofa = converted(bart())
    name = "bart.decoder.decoder.1.cross_heads"
    plain = ofa.export(config=ofa.search_space.complete({name: 1}))
    first, second = plain.bart.decoder.decoder.layers
    assert second.cross_attn.num_heads == 1
    assert second.cross_attn.k_proj.weight.shape == [HIDDEN, HIDDEN // HEADS]
    assert first.cross_attn.num_heads == second.self_attn.num_heads == HEADS


@each_model
def test_orders_change_nothing_that_is_computed(name: str) -> None:
    model = MODELS[name]()
    expected = outputs(model, BATCH)
    rows = [{**texts(3, seed), "labels": tokens(3, 7, seed=seed)} for seed in range(2)]
    scores = compute_neuron_head_importance(
        name,
        model,
        rows,
        2 * LAYERS,
        HEADS,
        loss_fct=lambda answer, labels: paddle.add_n([(one**2).mean() for one in floats(answer)]),
    )
    reorder_neuron_head(model, *scores)
    assert all(difference(*pair) < 1e-4 for pair in zip(outputs(model, BATCH), expected, strict=True))
    rows = [texts(16, seed) for seed in range(2)]
    calibration = Calibration(model, rows)
    heads, neurons = obs_importance(model, rows)
    assert heads.shape == [2 * LAYERS, HEADS]
    assert [one.shape for one in neurons] == [[NEURONS]] * 2 * LAYERS
    cross = {path: layer.weight.numpy() for path, layer in model.named_sublayers() if CROSS.search(path)}
    assert len(cross) == LAYERS
    reorder_by_obs(model, statistics(model, calibration).removals(model))
    assert all(difference(*pair) < 1e-4 for pair in zip(outputs(model, BATCH), expected, strict=True))
    assert any((layer.weight.numpy() != cross[path]).any() for path, layer in model.named_sublayers() if path in cross)


def test_repair_goes_from_the_encoder_s_first_block_to_the_decoder_s_last() -> None:
    model = bart()
    calibration = Calibration(model, [texts(8, seed) for seed in range(3)])
    ofa = converted(copy.deepcopy(model))
    small = ofa.export(config=ofa.search_space.uniform(0.5))
    errors = repair(small, model, calibration)
    assert [error.matrix.rpartition(".layers.")[2] for error in errors] == [
        *(f"{n}.{part}" for n in range(LAYERS) for part in ("self_attn.out_proj", "linear2")),
        *(f"{n}.{part}" for n in range(LAYERS) for part in ("self_attn.out_proj", "cross_attn.out_proj", "linear2")),
    ]
    assert all(error.after <= error.before * (1 + 1e-6) for error in errors)
    assert any(error.after < 0.9 * error.before for error in errors)


@each_model
def test_it_is_compressed_without_training(name: str) -> None:
    rows = [texts(8, seed) for seed in range(3)]
    small = compress(MODELS[name](), rows, budget={"flops_ratio": 0.7}, input_shapes=[BATCH])
    assert small.report.costs["flops_ratio"] <= 0.7
    assert any(axis.endswith("cross_heads") for axis in small.report.config)


def test_a_step_leaves_what_is_outside_alone() -> None:
    ofa = converted(bart(), RunConfig(elastic_depth=[1, 2]))
    config = ofa.search_space.smallest()
    loss = lambda answer, *_: answer[..., :VOCABULARY].mean() ** 2  # noqa: E731  # one line
    ofa.train_step(BATCH, loss, [config])
    (first, last) = dict(ofa.model.bart.decoder.decoder.layers.named_children()).values()
    assert first.linear1.weight.grad is None or float(first.linear1.weight.grad.abs().sum()) == 0
    grad = last.cross_attn.q_proj.weight.grad
    assert float(grad.abs().sum()) > 0
    assert float(grad[:, HIDDEN // HEADS :].abs().sum()) == 0


def test_its_hidden_size_is_cut_in_both_stacks(tmp_path: Path) -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5], hidden_size=[8, HIDDEN])).convert(bart()))
    config = ofa.search_space.smallest()
    with ofa.subnet(config), paddle.no_grad():
        expected = outputs(ofa.model, BATCH)
    plain = ofa.export(config=config, input_shapes=[BATCH])
    assert {block.linear1.weight.shape[0] for block in plain.bart.decoder.decoder.layers} == {8}
    assert plain.bart.shared.weight.shape == [VOCABULARY, 8]
    save_subnet(plain, tmp_path / "small", BATCH)
    for one in (plain, load_subnet(tmp_path / "small")):
        assert all(difference(*pair) < 1e-4 for pair in zip(outputs(one, BATCH), expected, strict=True))
