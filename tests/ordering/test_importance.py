from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import Tagger, batch, bert, difference, encoder, labels, ofa_of
from ofa_slim.errors import ImportanceError
from ofa_slim.importance import (
    compute_neuron_head_importance,
    reorder_head,
    reorder_neuron,
    reorder_neuron_head,
)


def score(model: Any, batches: Any, **more: Any) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    return compute_neuron_head_importance("a task", model, batches, 2, 4, **more)


def by_hand(model: Any, batches: list[Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Heads through a real mask on what enters the projection, neurons from plain gradients."""
    loss_fct = nn.CrossEntropyLoss()
    heads = np.zeros((2, 4))
    neurons = [np.zeros(24), np.zeros(24)]
    for *inputs, target in batches:
        masks, hooks = [], []
        for block in model.bert.encoder.layers:
            mask = paddle.ones([4, 1])
            mask.stop_gradient = False
            masks.append(mask)

            def apply(layer: Any, given: Any, mask: Any = mask) -> Any:
                context = given[0]
                shape = context.shape
                return (context.reshape([*shape[:-1], 4, 4]) * mask).reshape(shape)

            hooks.append(block.self_attn.out_proj.register_forward_pre_hook(apply))
        model.clear_gradients()
        loss_fct(model(*inputs), target).backward()
        for hook in hooks:
            hook.remove()
        for i, block in enumerate(model.bert.encoder.layers):
            heads[i] += np.abs(masks[i].grad.numpy()).reshape(-1)
            first, second = block.linear1, block.linear2
            into = (first.weight * first.weight.grad).sum(0) + first.bias * first.bias.grad
            out = (second.weight * second.weight.grad).sum(1)
            neurons[i] += np.abs(into.numpy()) + np.abs(out.numpy())
    model.clear_gradients()
    return heads, neurons


def test_scores_are_those_of_a_head_mask_and_of_the_neurons_own_weights() -> None:
    model = bert()
    batches = [(*batch(seed=seed), labels(seed=seed)) for seed in range(3)]
    expected_heads, expected_neurons = by_hand(model, batches)
    heads, neurons = score(model, batches)
    assert heads.dtype == paddle.float32
    assert all(neuron.dtype == paddle.float32 for neuron in neurons)
    np.testing.assert_allclose(heads.numpy(), expected_heads, rtol=1e-4, atol=1e-6)
    for found, expected in zip(neurons, expected_neurons, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert float(heads.min()) > 0


def test_each_batch_counts_for_itself() -> None:
    model = bert()
    batches = [(*batch(seed=seed), labels(seed=seed)) for seed in range(2)]
    together = score(model, batches)[0]
    apart = sum(score(model, [one])[0] for one in batches)
    assert difference(together, apart) < 1e-5 * float(together.max())


def test_gradients_add_up_over_the_batches_on_request() -> None:
    model = bert()
    batches = [(*batch(seed=seed), labels(seed=seed)) for seed in range(2)]
    block = model.bert.encoder.layers[0]
    projection, second = block.self_attn.out_proj.weight, block.linear2.weight
    grads = [paddle.grad(nn.CrossEntropyLoss()(model(*one[:-1]), one[-1]), [projection]) for one in batches]
    expected = np.zeros(4)
    for total in (grads[0][0], grads[0][0] + grads[1][0]):
        expected += np.abs((projection * total).numpy().reshape(4, -1).sum(axis=1))
    heads, neurons = score(model, batches, accumulate=True)
    np.testing.assert_allclose(heads[0].numpy(), expected, rtol=1e-4, atol=1e-6)
    assert [list(neuron.shape) for neuron in neurons] == [[second.shape[0]]] * 2
    assert difference(heads, score(model, batches)[0]) > 1e-4 * float(heads.max())


def test_scores_are_the_same_before_and_after_conversion() -> None:
    model = bert()
    batches = [(*batch(), labels())]
    before = score(model, batches)
    ofa = ofa_of(model, copy.deepcopy(model))
    ofa.set_net_config(ofa.search_space.smallest())
    config = ofa.net_config
    for wrapped in (ofa, ofa.model):
        after = score(wrapped, batches)
        assert difference(before[0], after[0]) == 0
        assert difference(before[1][1], after[1][1]) == 0
    # The sub-network that was set still runs.
    assert ofa.net_config == config
    assert ofa.model.bert.encoder.layers[0].self_attn.num_heads == 1


def test_batches_may_be_tuples_lists_or_dictionaries() -> None:
    model = bert()
    ids, types = batch()
    expected = score(model, [(ids, types, labels())])[0]
    for form in (
        [ids, types, labels()],
        {"input_ids": ids, "token_type_ids": types, "labels": labels()},
        {"label": labels(), "token_type_ids": types, "input_ids": ids},
    ):
        before = dict(form) if isinstance(form, dict) else list(form)
        assert difference(score(model, [form])[0], expected) == 0
        assert str(form) == str(before)


def test_mode_gradients_and_hooks_are_left_as_they_were() -> None:
    model = bert()
    model.train()
    model.bert.pooler.eval()
    frozen = model.bert.encoder.layers[0].linear1.weight
    frozen.stop_gradient = True
    (model(*batch()) ** 2).sum().backward()
    before = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    score(model, [(*batch(), labels())])
    after = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert model.training
    assert not model.bert.pooler.training
    assert frozen.stop_gradient


def test_the_mode_comes_back_after_an_error() -> None:
    model = bert()
    model.train()
    with pytest.raises(ZeroDivisionError):
        score(model, [(*batch(), labels())], loss_fct=lambda output, target: 1 / 0)
    assert model.training


def test_any_loss_and_any_model_that_holds_an_encoder() -> None:
    model = Tagger()
    heads, neurons = score(model, [(batch()[0], None)], loss_fct=lambda output, nothing: (output**2).mean())
    assert heads.shape == [2, 4]
    assert [neuron.shape for neuron in neurons] == [[24], [24]]


def test_layers_without_bias_are_scored() -> None:
    block = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, bias_attr=False)
    model = nn.TransformerEncoder(block, 2)
    heads, _ = score(model, [(paddle.randn([2, 3, 16]), None)], loss_fct=lambda out, _: (out**3).mean())
    assert float(heads.min()) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "num_layers is 3, but the model has 2 blocks"),
        ({"num_heads": 8}, "num_heads is 8, but bert.encoder.layers.0 has 4 heads"),
        ({"intermediate_name": "linear9"}, "layers.0.linear9 is not a Linear"),
        ({"output_name": "norm1"}, "layers.0.norm1 is not a Linear"),
        ({"data_loader": []}, "gave no batch"),
        ({"data_loader": [{"input_ids": None}]}, "no 'labels', only input_ids"),
        ({"data_loader": [paddle.ones([1])]}, "a batch is a Tensor"),
        ({"model": nn.Linear(2, 2)}, r"has no stack of blocks of a known family"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    given = {
        "task_name": "",
        "model": bert(),
        "data_loader": [(*batch(), labels())],
        "num_layers": 2,
        "num_heads": 4,
        **changes,
    }
    with pytest.raises(ImportanceError, match=message):
        compute_neuron_head_importance(**given)


def test_the_most_important_come_first() -> None:
    model = bert()
    batches = [(*batch(seed=seed), labels(seed=seed)) for seed in range(3)]
    reorder_neuron_head(model, *score(model, batches))
    heads, neurons = score(model, batches)
    for row in (*heads.numpy(), *(neuron.numpy() for neuron in neurons)):
        assert (np.diff(row) <= 1e-5 * row.max()).all()


def test_reordering_moves_bits_and_makes_no_new_parameters() -> None:
    model = encoder(1)
    parameters = list(model.parameters())
    layer = model.layers[0]
    before = layer.linear1.weight.numpy()
    bias = paddle.randn([24])
    layer.linear1.bias.set_value(bias)
    order = list(range(24))[::-1]
    reorder_neuron(layer.linear1, order, dim=1)
    assert np.array_equal(layer.linear1.weight.numpy(), before[:, ::-1])
    assert np.array_equal(layer.linear1.bias.numpy(), bias.numpy()[::-1])
    heads = layer.self_attn.q_proj.weight.numpy().reshape(16, 4, 4)
    reorder_head(layer.self_attn, paddle.to_tensor([2, 0, 3, 1]))
    moved = layer.self_attn.q_proj.weight.numpy().reshape(16, 4, 4)
    assert np.array_equal(moved, heads[:, [2, 0, 3, 1]])
    assert all(now is old for now, old in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("index", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4], [0.0, 1.0, 2.0, 3.0], []])
def test_an_index_that_is_not_a_permutation_is_refused(index: list[int]) -> None:
    model = encoder(1)
    before = model.layers[0].self_attn.q_proj.weight.numpy()
    with pytest.raises(ImportanceError, match="not a permutation of 0 to 3"):
        reorder_head(model.layers[0].self_attn, index)
    assert np.array_equal(model.layers[0].self_attn.q_proj.weight.numpy(), before)


def test_reordering_refuses_what_does_not_fit_before_it_changes_anything() -> None:
    model = bert()
    before = {key: value.numpy() for key, value in model.state_dict().items()}
    heads, neurons = paddle.rand([2, 4]), [paddle.rand([24]), paddle.rand([23])]
    with pytest.raises(ImportanceError, match=r"layers.1: neuron scores of shape \[23\], expected \[24\]"):
        reorder_neuron_head(model, heads, neurons)
    with pytest.raises(ImportanceError, match="the model has 2 blocks"):
        reorder_neuron_head(model, heads[:1], neurons)
    with pytest.raises(ImportanceError, match="dim 2"):
        reorder_neuron(model.classifier, [0, 1, 2], dim=2)
    with pytest.raises(ImportanceError, match="Linear is not a MultiHeadAttention"):
        reorder_head(model.classifier, [0])
    with pytest.raises(ImportanceError, match="LayerNorm is not a Linear"):
        reorder_neuron(model.bert.embeddings.layer_norm, [0])
    assert all(np.array_equal(value.numpy(), before[key]) for key, value in model.state_dict().items())


def test_reordering_works_on_a_supernet_whatever_runs() -> None:
    model, inputs = bert(layers=2), batch()
    expected = model(*inputs)
    ofa = ofa_of(model)
    ofa.set_net_config(ofa.search_space.smallest())
    rng = np.random.default_rng(0)
    reorder_neuron_head(ofa, paddle.to_tensor(rng.random((2, 4))), [paddle.to_tensor(rng.random(24)) for _ in range(2)])
    with ofa.subnet(ofa.search_space.largest()):
        assert difference(ofa(*inputs), expected) < 1e-5


def test_scores_hold_on_to_nothing_that_they_were_made_from() -> None:
    model = bert()
    heads, neurons = compute_neuron_head_importance("", model, [(*batch(), labels())], 2, 4)
    assert all(score.stop_gradient and score.grad_fn is None for score in [heads, *neurons])


def test_blocks_with_unequal_numbers_of_heads_are_scored_and_reordered() -> None:
    ofa = ofa_of(bert(layers=2), ratios=[1.0, 0.5])
    uneven = ofa.export(config=ofa.search_space.complete({"encoder.0.heads": 2, "encoder.0.ffn": 6}))
    loader = [(*batch(), labels())]
    heads, neurons = compute_neuron_head_importance("", uneven, loader, 2, 4)
    assert [len(scores) for scores in heads] == [2, 4]
    assert len(neurons[0]) == 6
    uneven.eval()
    before = uneven(*batch())
    reorder_neuron_head(uneven, heads, neurons)
    assert difference(uneven(*batch()), before) < 1e-5
    with pytest.raises(ImportanceError, match=r"num_heads is 2, but .* has 4 heads"):
        compute_neuron_head_importance("", uneven, loader, 2, 2)
