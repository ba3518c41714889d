"""Answers from disk are the teacher's, whatever batch they come in."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import batch, bert, difference, ofa_of
from ofa_slim import OFA, DistillConfig, TeacherCache, dynabert_config
from ofa_slim.errors import ConfigError, DistillError
from ofa_slim.train.teacher.store import ENTRY_SIZE, INDEX_FILE
from teacher_caches import LAYERS, Cached, bits, full, learning, padded, soft, words


def test_answers_from_disk_are_those_of_the_teacher(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    inputs = full()
    with paddle.no_grad():
        expected = teacher(*inputs)
    calls.clear()
    first = ofa(*inputs)[1]
    loss = ofa.calc_distill_loss()
    again = ofa(*(tensor.clone() for tensor in inputs))[1]
    assert len(calls) == 1
    assert difference(first, expected) == 0
    assert bits(again) == bits(first)
    assert again.stop_gradient
    assert again.dtype == expected.dtype
    assert ofa.teacher_cache is not None
    assert (ofa.teacher_cache.hits, ofa.teacher_cache.misses) == (3, 3)
    assert loss.shape == []


def test_another_padding_and_another_order_are_answered_from_disk(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    ids, types = batch()
    types = types * (ids != 0).astype("int64")
    first = ofa(ids, types)[1]
    other = padded((ids, types), 12, order=[2, 0, 1])
    again = ofa(*other)[1]
    assert len(calls) == 1
    assert bits(again) == bits(paddle.index_select(first, paddle.to_tensor([2, 0, 1])))
    assert difference(again, teacher(*other)) < 1e-5
    calls.clear()
    # By name, in any order, and without the padding of the row that had some.
    ofa(token_type_ids=types[2:, :5], input_ids=ids[2:, :5])
    assert not calls


def test_padding_is_cut_at_the_end_alone_and_only_where_it_is_padding(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    for number, ids in enumerate([[1, 2], [1, 0, 2], [0, 1, 2], [1, 0, 0, 2], [0, 0], [0, 0, 0]], 1):
        found = cached(paddle.to_tensor([ids])).output
        assert difference(found, cached.plain((paddle.to_tensor([ids]),), {}, found).output) == 0
        assert cached.calls == number
    cached(paddle.to_tensor([[1, 2, 0, 0]]))
    assert cached.calls == 6
    kept = Cached(tmp_path / "none", words(), pad_token_id=None)
    for ids in [[1, 2], [1, 2, 0]]:
        kept(paddle.to_tensor([ids]))
    assert kept.calls == 2
    fifties = Cached(tmp_path / "one", words(), pad_token_id=1)
    for ids in [[2, 3], [2, 3, 1], [2, 3, 0]]:
        fifties(paddle.to_tensor([ids]))
    assert fifties.calls == 2


def test_everything_that_the_teacher_gets_tells_rows_apart(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    ids = paddle.to_tensor([[1, 2]])
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((ids,), {}),
        ((ids.astype("int32"),), {}),
        ((ids, ids), {}),
        ((ids, ids + 1), {}),
        ((ids,), {"flag": 1}),
        ((ids,), {"flag": 1.0}),
        ((ids,), {"flag": [True, "a"]}),
        ((ids,), {"flag": paddle.to_tensor([1.5])}),
        ((ids,), {"flag": paddle.to_tensor([1.25])}),
        ((ids,), {"flag": paddle.zeros([1])}),
        ((ids,), {"flag": paddle.zeros([1], dtype="int32")}),
        ((ids,), {"flag": paddle.zeros([1, 1], dtype="int32")}),
    ]
    for _ in range(2):
        for args, kwargs in calls:
            cached(*args, **kwargs)
    assert cached.calls == len(calls)


def test_changed_weights_and_other_data_are_answered_by_the_teacher(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    first = ofa(*full())[1]
    weight = teacher.classifier.weight
    before = weight.clone()
    weight.set_value(before * 2)
    changed = ofa(*full())[1]
    assert len(calls) == 2
    assert difference(changed, teacher(*full())) < 1e-6
    assert difference(changed, first) > 1e-3
    calls.clear()
    weight.set_value(before)
    assert bits(ofa(*full())[1]) == bits(first)
    assert not calls
    ofa(*full(seed=1))
    assert len(calls) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_stored_first_is_always_answered(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    ids = full()[0]
    first = cached(ids)
    cached.noise = 1.0
    mixed = cached(paddle.concat([full(seed=1)[0][:1], ids, ids[:1]]))
    assert cached.calls == 2
    assert bits(mixed.output[1:]) == bits(paddle.concat([first.output, first.output[:1]]))
    assert bits(mixed.hidden["embed"][1:4]) == bits(first.hidden["embed"])
    cached.noise = 2.0
    assert bits(cached(full(seed=1)[0][:1]).output) == bits(mixed.output[:1])
    assert (cached.engine.hits, cached.engine.misses) == (5, 4)


def test_a_row_twice_in_a_batch_is_stored_once(tmp_path: Path) -> None:
    cached = Cached(tmp_path, words())
    ids = full(rows=1)[0]
    answer = cached(paddle.concat([ids, ids]))
    assert bits(answer.output[0]) == bits(answer.output[1])
    (folder,) = tmp_path.iterdir()
    assert (folder / INDEX_FILE).stat().st_size == ENTRY_SIZE


@pytest.mark.parametrize("form", ["step", "loop"])
def test_the_second_epoch_runs_the_teacher_not_once_and_a_resumed_run_never(tmp_path: Path, form: str) -> None:
    data = [batch(seed=seed) for seed in range(3)]

    def epoch(ofa: OFA) -> list[float]:
        losses = []
        for inputs in data:
            configs = [dynabert_config(ofa, width) for width in (1.0, 0.5)]
            if form == "step":
                losses += [float(loss) for loss in ofa.train_step(inputs, soft, configs)]
                continue
            for config in configs:
                ofa.set_net_config(config)
                losses.append(float(soft(*ofa(*inputs)) + ofa.calc_distill_loss()))
        return losses

    ofa, _, calls = learning(tmp_path, rows=9)
    first = epoch(ofa)
    assert len(calls) == 3
    assert epoch(ofa) == first
    assert len(calls) == 3
    assert ofa.teacher_cache is not None
    ofa.teacher_cache.close()
    resumed, _, calls = learning(tmp_path, rows=9)
    assert epoch(resumed) == first
    assert not calls


def test_losses_and_gradients_are_those_without_a_cache(tmp_path: Path) -> None:
    def trained(ofa: OFA) -> tuple[list[float], dict[str, np.ndarray]]:
        configs = [dynabert_config(ofa, width) for width in (1.0, 0.5)]
        losses = [float(loss) for loss in ofa.train_step(full(), soft, configs)]
        grads = {name: p.grad.numpy().copy() for name, p in ofa.model.named_parameters() if p.grad is not None}
        ofa.clear_gradients()
        return losses, grads

    expected, wanted = trained(learning(None)[0])
    ofa, _, calls = learning(tmp_path)
    for _ in range(2):
        losses, grads = trained(ofa)
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        assert grads.keys() == wanted.keys()
        for name, gradient in wanted.items():
            np.testing.assert_allclose(grads[name], gradient, atol=1e-6, err_msg=name)
    assert len(calls) == 1


def test_padded_positions_teach_nothing(tmp_path: Path) -> None:
    ofa, teacher, calls = learning(tmp_path)
    inputs = batch()
    known = (inputs[0] != 0).astype("float32").unsqueeze(-1)
    name = LAYERS[1]
    theirs: dict[str, paddle.Tensor] = {}
    ours: dict[str, paddle.Tensor] = {}
    names = [(dict(teacher.named_sublayers()), theirs), (dict(ofa.model.named_sublayers()), ours)]
    hooks = [
        layers[layer].register_forward_post_hook(
            lambda _, given, output, at=(found, layer): at[0].update({at[1]: output})
        )
        for layers, found in names
        for layer in LAYERS
    ]
    config = dynabert_config(ofa, 0.5)
    losses = []
    for _ in range(2):  # the second from disk
        ofa.set_net_config(config)
        ofa(*(tensor.clone() for tensor in inputs))
        ours[name].retain_grads()
        loss = ofa.calc_distill_loss()
        loss.backward()
        losses.append(float(loss))
        gradient = ours[name].grad
        assert float((gradient * (1 - known)).abs().max()) == 0
        assert float((gradient * known).abs().min(-1).max()) > 0
        ofa.clear_gradients()
    for hook in hooks:
        hook.remove()
    assert len(calls) == 1
    assert losses[0] == losses[1]
    expected = 0.3 * sum(((ours[layer] - theirs[layer]) * known).square().mean() for layer in LAYERS)
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_unequal_widths_need_a_projection_where_there_is_padding(tmp_path: Path) -> None:
    def narrow(**more: Any) -> OFA:
        cache = TeacherCache(tmp_path / str(len(more)), rows=10)
        return ofa_of(bert(), bert(heads=2), mapping_layers=LAYERS, cache_teacher=cache, **more)

    ofa = narrow(mapping_op="linear")
    ofa(*batch())
    assert float(ofa.calc_distill_loss()) > 0
    own = narrow(distill_fn=lambda student, teacher: student.mean() - teacher.mean(), lambda_distill=1.0)
    own(*full())
    own.calc_distill_loss()
    own(*batch())
    with pytest.raises(DistillError, match=r"padded positions take the student's values, but its output \[3, 7, 16\]"):
        own.calc_distill_loss()


def test_what_is_known_is_logged(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ofa_slim")
    cached = Cached(tmp_path, words(), rows=6)
    cached(full()[0])
    assert "the teacher's answers to 0 of 6 rows are known; 0 bytes" in caplog.text
    assert "need not run" not in caplog.text
    for _ in range(2):
        cached(full(seed=1)[0])
    assert caplog.text.count("the teacher's answers to all 6 rows are known; it need not run any more") == 1
    cached.engine.close()
    cached(full()[0])
    size = sum(file.stat().st_size for file in next(tmp_path.iterdir()).glob("*.bin"))
    assert f"the teacher's answers to 6 of 6 rows are known; {size:,} bytes" in caplog.text


def test_the_fast_engines_are_cached_too(tmp_path: Path) -> None:
    ofa, teacher, _ = learning(tmp_path, teacher_engine="auto")
    first = ofa(*full())[1]
    assert difference(first, teacher(*full())) < 1e-5
    assert bits(ofa(*full())[1]) == bits(first)
    assert ofa.teacher_cache is not None
    assert ofa.teacher_cache.hits == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"directory": ""}, "directory '' is not a path"),
        ({"directory": 3}, "directory 3 is not a path"),
        ({"directory": __file__}, "is a file"),
        ({"rows": 0}, "rows is 0, not a whole number of at least 1"),
        ({"rows": True}, "rows is True"),
        ({"max_bytes": 1.5}, "max_bytes is 1.5"),
        ({"pad_token_id": "0"}, "pad_token_id '0' is not a whole number or None"),
    ],
)
def test_invalid_values_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TeacherCache(**{"directory": "cache", "rows": 5, **given})


def test_a_cache_needs_a_teacher_that_stays(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, rows=5)
    with pytest.raises(ConfigError, match="cache_teacher was given, but the teacher is 'self'"):
        DistillConfig(teacher_model="self", cache_teacher=cache)
    with pytest.raises(ConfigError, match="cache_teacher was given without a teacher_model"):
        DistillConfig(cache_teacher=cache)
    given: Any = str(tmp_path)
    with pytest.raises(ConfigError, match="is not a TeacherCache or None"):
        DistillConfig(teacher_model=bert(), cache_teacher=given)
    assert learning(None)[0].teacher_cache is None


def test_inputs_and_answers_without_rows_are_refused(tmp_path: Path) -> None:
    ids = full()[0]
    cached = Cached(tmp_path, words())
    with pytest.raises(ConfigError, match=r"dimension 0 is not the batch in all inputs: shapes \[\[3, 7\], \[2\]\]"):
        cached(ids, flag=paddle.ones([2]))
    with pytest.raises(ConfigError, match=r"dimension 0 is not the batch"):
        cached(ids, flag=paddle.to_tensor(1.0))
    with pytest.raises(ConfigError, match="an input is a ndarray"):
        cached(ids, flag=np.zeros(3))
    assert cached.calls == 0
    outputs: list[tuple[Any, str]] = [
        (lambda hidden, mask: hidden.mean(), r"answer to 3 rows has float32 \[\]"),
        (lambda hidden, mask: hidden.transpose([1, 0, 2]), r"answer to 3 rows has float32 \[7, 3, 4\]"),
        (lambda hidden, mask: {1, 2}, "the teacher's output holds a set"),
    ]
    for output, message in outputs:
        with pytest.raises(ConfigError, match=message):
            Cached(tmp_path, words(output))(ids)
    assert not list(tmp_path.iterdir())
    fussy = words(lambda hidden, mask: hidden.sum(-1) if hidden.shape[1] == 7 else json.loads("{"))
    with pytest.raises(ConfigError, match="as wide as the batch is padded, and whether that is a coincidence"):
        Cached(tmp_path, fussy)(ids)


def test_teachers_that_compute_something_else_with_the_same_weights_have_other_keys() -> None:
    from paddle import nn

    from ofa_slim.train.teacher.keys import teacher_key

    def encoder(heads: int, activation: str) -> nn.Layer:
        paddle.seed(0)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, heads, 24, activation=activation), 1)

    assert teacher_key(encoder(4, "gelu")) == teacher_key(encoder(4, "gelu"))
    assert len({teacher_key(encoder(*kind)) for kind in ((4, "gelu"), (2, "gelu"), (4, "relu"))}) == 3
