"""BART: an encoder and a decoder that are both elastic, and the attention from one to the other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from families import HEADS, HIDDEN, NEURONS, VOCABULARY, bart, outputs, tokens
from models import difference
from ofa_slim import OFA, Convert, RunConfig, compress, load_subnet, save_subnet, supernet
from ofa_slim.closed_form import Calibration, obs_importance, reorder_by_obs, repair, statistics
from ofa_slim.importance import compute_neuron_head_importance, reorder_neuron_head
from ofa_slim.measure.cost import CostModel, measured_cost

LAYERS = 2
BATCH = {"input_ids": tokens(3, 7, seed=3)}


def converted(model: nn.Layer, run: RunConfig | None = None) -> OFA:
    return OFA(Convert(supernet(expand_ratio=[1.0, 0.5, 0.25])).convert(model), run)


def random_config(ofa: OFA, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return ofa.search_space.complete(
        {axis.name: int(rng.integers(axis.least, axis.size + 1)) for axis in ofa.search_space.axes}
    )


def generated(model: nn.Layer, use_cache: bool) -> np.ndarray:
    options = {"decode_strategy": "greedy_search", "max_length": 6, "use_cache": use_cache, "eos_token_id": -1}
    return model.generate(BATCH["input_ids"], **options)[0].numpy()


def test_both_stacks_and_the_attention_between_them_are_elastic() -> None:
    ofa = converted(bart())
    kinds = [axis.name.rpartition(".")[2] for axis in ofa.search_space.axes]
    assert kinds == ["heads", "ffn"] * LAYERS + ["depth"] + ["heads", "cross_heads", "ffn"] * LAYERS + ["depth"]


def test_sub_networks_are_exported_reloaded_and_counted(tmp_path: Path) -> None:
    ofa = converted(bart())
    costs = CostModel.of(ofa)
    for seed in range(8):
        config = random_config(ofa, seed)
        with ofa.subnet(config), paddle.no_grad():
            expected = outputs(ofa.model, BATCH)
        plain = ofa.export(config=config)
        assert costs(config) == measured_cost(plain, costs._example)
        save_subnet(plain, tmp_path / str(seed))
        for one in (plain, load_subnet(tmp_path / str(seed))):
            assert all(difference(*pair) < 1e-4 for pair in zip(outputs(one, BATCH), expected, strict=True))


def test_the_same_tokens_are_generated_before_and_after_export() -> None:
    ofa, texts = converted(bart()), set()
    for seed in range(4):
        config = random_config(ofa, seed)
        with ofa.subnet(config):
            expected = generated(ofa.model, use_cache=False)
            assert np.array_equal(generated(ofa.model, use_cache=True), expected)
        plain = ofa.export(config=config)
        plain.eval()
        for use_cache in (False, True):
            assert np.array_equal(generated(plain, use_cache), expected)
        texts.add(expected.tobytes())
    assert len(texts) > 1


def test_heads_of_one_attention_alone_are_cut_where_they_are_asked_for() -> None:
    ofa = converted(bart())
    name = "bart.decoder.decoder.1.cross_heads"
    plain = ofa.export(config=ofa.search_space.complete({name: 1}))
    first, second = plain.bart.decoder.decoder.layers
    assert second.cross_attn.num_heads == 1
    assert second.cross_attn.k_proj.weight.shape == [HIDDEN, HIDDEN // HEADS]
    assert first.cross_attn.num_heads == second.self_attn.num_heads == HEADS


def test_orders_change_nothing_that_is_computed() -> None:
    model = bart()
    expected = outputs(model, BATCH)
    rows = [{"input_ids": tokens(3, 7, seed=seed), "labels": tokens(3, 7, seed=seed)} for seed in range(2)]
    scores = compute_neuron_head_importance(
        "bart",
        model,
        rows,
        2 * LAYERS,
        HEADS,
        loss_fct=lambda logits, labels: (logits**2).mean() * labels.astype("float32").mean(),
    )
    reorder_neuron_head(model, *scores)
    assert all(difference(*pair) < 1e-4 for pair in zip(outputs(model, BATCH), expected, strict=True))
    rows = [{"input_ids": tokens(16, 7, seed=seed)} for seed in range(2)]
    calibration = Calibration(model, rows)
    heads, neurons = obs_importance(model, rows)
    assert heads.shape == [2 * LAYERS, HEADS]
    assert [one.shape for one in neurons] == [[NEURONS]] * 2 * LAYERS
    cross = [block.cross_attn.q_proj.weight.numpy() for block in model.bart.decoder.decoder.layers]
    reorder_by_obs(model, statistics(model, calibration).removals(model))
    assert all(difference(*pair) < 1e-4 for pair in zip(outputs(model, BATCH), expected, strict=True))
    moved = [block.cross_attn.q_proj.weight.numpy() for block in model.bart.decoder.decoder.layers]
    assert any((one != other).any() for one, other in zip(cross, moved, strict=True))


def test_repair_goes_from_the_encoder_s_first_block_to_the_decoder_s_last() -> None:
    model = bart()
    calibration = Calibration(model, [{"input_ids": tokens(8, 7, seed=seed)} for seed in range(3)])
    ofa = converted(copy.deepcopy(model))
    small = ofa.export(config=ofa.search_space.uniform(0.5))
    errors = repair(small, model, calibration)
    assert [error.matrix.rpartition(".layers.")[2] for error in errors] == [
        *(f"{n}.{part}" for n in range(LAYERS) for part in ("self_attn.out_proj", "linear2")),
        *(f"{n}.{part}" for n in range(LAYERS) for part in ("self_attn.out_proj", "cross_attn.out_proj", "linear2")),
    ]
    assert all(error.after <= error.before * (1 + 1e-6) for error in errors)
    assert any(error.after < 0.9 * error.before for error in errors)


def test_it_is_compressed_without_training() -> None:
    rows = [{"input_ids": tokens(8, 7, seed=seed)} for seed in range(3)]
    small = compress(bart(), rows, budget={"flops_ratio": 0.7})
    assert small.report.costs["flops_ratio"] <= 0.7
    assert "bart.decoder.decoder.0.cross_heads" in small.report.config


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
    plain = ofa.export(config=config)
    assert {block.linear1.weight.shape[0] for block in plain.bart.decoder.decoder.layers} == {8}
    assert plain.bart.shared.weight.shape == [VOCABULARY, 8]
    save_subnet(plain, tmp_path / "small")
    for one in (plain, load_subnet(tmp_path / "small")):
        assert all(difference(*pair) < 1e-4 for pair in zip(outputs(one, BATCH), expected, strict=True))
