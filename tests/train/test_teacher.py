"""The teacher answers once per batch, and never with an answer that is out of date."""

from __future__ import annotations

import copy
from typing import Any

import paddle
import pytest

from models import batch, bert, difference, ofa_of
from ofa_slim import OFA, dynabert_config


@pytest.fixture
def counted() -> tuple[OFA, Any, list[int]]:
    model = bert()
    teacher = copy.deepcopy(model)
    calls: list[int] = []
    teacher.register_forward_post_hook(lambda layer, inputs, output: calls.append(1))
    return ofa_of(model, teacher, mapping_layers=["bert.encoder.layers.1"]), teacher, calls


def test_the_teacher_runs_once_for_all_widths_of_a_batch(counted: Any) -> None:
    ofa, teacher, calls = counted
    for step in range(3):
        inputs = batch(seed=step)
        for width in (1.0, 0.5, 0.25):
            ofa.set_net_config(dynabert_config(ofa, width))
            student, answer = ofa(*inputs)
            assert difference(answer, teacher(*inputs)) == 0
            calls.pop()
        assert len(calls) == step + 1
    assert answer.stop_gradient
    assert not student.stop_gradient


def test_keyword_and_nested_inputs_count_too(counted: Any) -> None:
    ofa, _, calls = counted
    ids, types = batch()
    for _ in range(2):
        ofa(input_ids=ids, token_type_ids=types)
    assert len(calls) == 1
    ofa(input_ids=ids, token_type_ids=types, return_dict=True)
    assert len(calls) == 2
    ofa(input_ids=ids)
    assert len(calls) == 3


def fresh(ofa: OFA, teacher: Any, inputs: Any) -> None:
    assert difference(ofa(*inputs)[1], teacher(*inputs)) == 0


def test_a_buffer_overwritten_by_set_value_gets_a_fresh_answer(counted: Any) -> None:
    ofa, teacher, _ = counted
    inputs = batch(seed=0)
    old = ofa(*inputs)[1]
    inputs[0].set_value(batch(seed=1)[0])
    fresh(ofa, teacher, inputs)
    assert difference(ofa(*inputs)[1], old) > 1e-3


def test_a_buffer_changed_in_place_gets_a_fresh_answer(counted: Any) -> None:
    ofa, teacher, _ = counted
    inputs = batch()
    ofa(*inputs)
    inputs[0][0, 0] = 9
    fresh(ofa, teacher, inputs)


def test_a_tensor_made_where_another_was_freed_gets_a_fresh_answer(counted: Any) -> None:
    ofa, teacher, calls = counted
    for seed in range(20):
        fresh(ofa, teacher, batch(seed=seed))
    # Equal contents in another object count as another batch.
    fresh(ofa, teacher, batch(seed=19))
    assert len(calls) == 42


@pytest.mark.parametrize("how", ["set_value", "set_state_dict", "in place", "optimizer", "swapped rows", "one element"])
def test_changed_teacher_weights_get_a_fresh_answer(counted: Any, how: str) -> None:
    ofa, teacher, _ = counted
    inputs = batch()
    old = ofa(*inputs)[1]
    weight = teacher.classifier.weight
    if how == "set_value":
        weight.set_value(weight * 2)
    elif how == "set_state_dict":
        teacher.set_state_dict(bert().state_dict())
    elif how == "in place":
        with paddle.no_grad():
            weight.scale_(2.0)
    elif how == "optimizer":
        (teacher(*inputs) ** 2).sum().backward()
        paddle.optimizer.SGD(0.1, parameters=teacher.parameters()).step()
    elif how == "swapped rows":
        order = paddle.to_tensor([1, 0, *range(2, weight.shape[0])])
        weight.set_value(paddle.index_select(weight, order))
    else:
        with paddle.no_grad():
            weight[0, 0] = weight[0, 0] + 0.01
    fresh(ofa, teacher, inputs)
    assert difference(ofa(*inputs)[1], old) > 0


def test_the_teacher_stays_frozen_and_in_eval_mode(counted: Any) -> None:
    ofa, teacher, _ = counted
    before = {key: value.numpy() for key, value in teacher.state_dict().items()}
    ofa.train()
    student, _ = ofa(*batch())
    (student.sum() + ofa.calc_distill_loss()).backward()
    paddle.optimizer.SGD(0.1, parameters=ofa.parameters()).step()
    assert not teacher.training
    assert all((value.numpy() == before[key]).all() for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    own = {id(parameter) for parameter in ofa.parameters()}
    assert not own & {id(parameter) for parameter in teacher.parameters()}
    assert len(ofa.state_dict()) == len(ofa.model.state_dict())
    teacher.train()
    ofa(*batch())
    assert not teacher.training
