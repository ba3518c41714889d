from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import Tagger, batch, bert, difference, encoder, labels, ofa_of
from ofa_slim import OFA, Convert, DistillConfig, RunConfig, SubnetConfig, dynabert_config, supernet
from ofa_slim.errors import ConfigError, DistillError

DEEP = RunConfig(elastic_depth=(1, 2, 3))


def sampled(ofa: OFA, times: int = 40) -> list[SubnetConfig]:
    inputs = batch(rows=1, length=3)
    seen = []
    for _ in range(times):
        ofa(*inputs)
        seen.append(ofa.subnet_config(ofa.current_config or {}))
    return seen


def test_the_published_signatures() -> None:
    assert list(inspect.signature(OFA.__init__).parameters)[1:6] == [
        "model",
        "run_config",
        "distill_config",
        "elastic_order",
        "train_full",
    ]
    assert inspect.signature(dynabert_config).parameters["depth_mult"].default == 1.0


def test_without_a_config_every_forward_samples_in_train_and_in_eval() -> None:
    ofa = ofa_of(bert(layers=3), run_config=DEEP)
    assert ofa.current_config is None
    for mode in (ofa.train, ofa.eval):
        mode()
        seen = sampled(ofa)
        assert len(set(seen)) > 20
        for axis in ofa.search_space.axes:
            assert {config[axis.name] for config in seen} == set(axis.choices)


def test_sampling_is_seeded() -> None:
    one, other = (sampled(ofa_of(bert(layers=3), run_config=DEEP)) for _ in range(2))
    assert one == other
    ofa = ofa_of(bert(layers=3), run_config=DEEP)
    ofa.rng = np.random.default_rng(7)
    assert sampled(ofa) != one


def test_a_set_config_stays_until_none() -> None:
    ofa = ofa_of(bert(layers=3), run_config=DEEP)
    smallest = ofa.search_space.smallest()
    ofa.set_net_config(smallest)
    assert ofa.net_config == smallest
    assert set(sampled(ofa, 5)) == {smallest}
    ofa.set_net_config(None)
    assert ofa.net_config is None
    assert len(set(sampled(ofa))) > 5
    ofa.net_config = smallest
    assert set(sampled(ofa, 3)) == {smallest}
    ofa.net_config = None
    assert len(set(sampled(ofa))) > 5


def test_a_set_config_holds_for_the_model_itself() -> None:
    ofa, inputs = ofa_of(bert(layers=3)), batch()
    full = ofa.model(*inputs)
    ofa.set_net_config(ofa.search_space.smallest())
    assert difference(ofa.model(*inputs), ofa(*inputs)) == 0
    assert difference(ofa.model(*inputs), full) > 1e-3
    ofa.set_net_config(None)
    assert difference(ofa.model(*inputs), full) == 0


def test_a_scoped_subnet_is_undone_even_by_an_exception() -> None:
    ofa, inputs = ofa_of(bert(layers=3)), batch()
    full = ofa.model(*inputs)
    smallest = ofa.search_space.smallest()

    def fail() -> None:
        with ofa.subnet(smallest) as inside:
            assert inside is ofa
            assert ofa.net_config == smallest
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ofa.net_config is None
    assert difference(ofa.model(*inputs), full) == 0
    with ofa.subnet(smallest):
        with ofa.subnet(ofa.search_space.largest()):
            assert difference(ofa(*inputs), full) == 0
        assert ofa.net_config == smallest


def test_tasks_limit_what_is_sampled() -> None:
    ofa = ofa_of(bert(layers=3), run_config=DEEP)
    ofa.set_task("width")
    assert {config["encoder.depth"] for config in sampled(ofa)} == {3}
    for name in ("expand_ratio", "channel"):
        ofa.set_task(name, phase=0)
        assert {config["encoder.0.ffn"] for config in sampled(ofa)} == {12, 24}
    ofa.set_task("depth")
    seen = sampled(ofa)
    assert {config["encoder.depth"] for config in seen} == {1, 2, 3}
    assert {config["encoder.0.ffn"] for config in seen} == {24}
    ofa.set_task(["width", "depth"], phase=0)
    seen = sampled(ofa)
    assert {config["encoder.depth"] for config in seen} == {2, 3}
    assert {config["encoder.0.ffn"] for config in seen} == {6, 12, 24}


def test_train_full_always_runs_in_full() -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[0.5])).convert(bert()), train_full=True)
    assert set(sampled(ofa, 5)) == {ofa.search_space.largest()}


def test_the_schedule_follows_the_epoch() -> None:
    run = RunConfig(n_epochs=[[1, 2], [3]], elastic_depth=(1, 2, 3))
    ofa = ofa_of(bert(layers=3), run_config=run)
    expected = [({12, 24}, {3}), ({6, 12, 24}, {3}), ({6, 12, 24}, {2, 3})]
    for epoch, (widths, depths) in enumerate(expected):
        ofa.set_epoch(epoch)
        seen = sampled(ofa)
        assert {config["encoder.0.ffn"] for config in seen} == widths
        assert {config["encoder.depth"] for config in seen} == depths


def test_the_order_of_tasks_can_be_chosen() -> None:
    run = RunConfig(n_epochs=[[1], [2]], elastic_depth=(1, 2, 3))
    model = Convert(supernet(expand_ratio=[1.0, 0.5, 0.25])).convert(bert(layers=3))
    ofa = OFA(model, run, elastic_order=["depth", "width"])
    ofa.set_epoch(0)
    seen = sampled(ofa)
    assert {config["encoder.depth"] for config in seen} == {2, 3}
    assert {config["encoder.0.ffn"] for config in seen} == {24}


def test_epochs_are_counted_from_the_iterations() -> None:
    run = RunConfig(
        train_batch_size=4,
        total_images=10,
        n_epochs=[[1], [2]],
        elastic_depth=(1, 2),
        dynamic_batch_size=[2, 1],
    )
    ofa = ofa_of(bert(layers=2), run_config=run, ratios=[1.0, 0.5])
    ofa.eval()
    sampled(ofa, 50)
    ofa.train()
    # 3 batches make an epoch, and 2 sub-networks a batch while the first task trains.
    first, second = sampled(ofa, 6), sampled(ofa, 30)
    assert {config["encoder.depth"] for config in first} == {2}
    assert {config["encoder.depth"] for config in second} == {1, 2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ofa: ofa.set_epoch(-1), "epoch is -1"),
        (lambda ofa: ofa.set_epoch(1.5), "epoch is 1.5"),
        (lambda ofa: ofa.set_task("with"), "task 'with' is not one of .*; did you mean 'width'"),
        (lambda ofa: ofa.set_task("depth"), "task 'depth': nothing in this model"),
        (lambda ofa: ofa.set_task("width", phase=-1), "phase is -1"),
        (lambda ofa: ofa.set_task([]), "names no task"),
    ],
)
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(ofa_of(bert()))


class Stepped(nn.Layer):
    """A model whose forward takes the depth itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = encoder(1)
        self.blocks = nn.LayerList([nn.Linear(16, 16) for _ in range(4)])

    def forward(self, x: paddle.Tensor, depth: int = 4) -> paddle.Tensor:
        x = self.body(x)
        for block in list(self.blocks)[:depth]:
            x = block(x)
        return x


def test_a_forward_that_takes_depth_gets_it() -> None:
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(Stepped())
    ofa = OFA(model, RunConfig(elastic_depth=(2, 4)))
    ofa.eval()
    x = paddle.randn([1, 3, 16])
    ofa.set_net_config({"depth": 2})
    assert difference(ofa(x), model(x, depth=2)) == 0
    assert difference(ofa(x), model(x, depth=4)) > 1e-4
    plain = ofa.export(config={"depth": 3}, input_shapes=[[1, 3, 16]])
    assert type(plain) is Stepped


# Paddle warns that there is one process only.
@pytest.mark.filterwarnings("ignore:The program will return to single-card operation:UserWarning")
def test_a_model_in_data_parallel_is_accepted() -> None:
    model, inputs = bert(), batch()
    expected = model(*inputs)
    Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model)
    teacher = copy.deepcopy(model)
    ofa = OFA(
        paddle.DataParallel(model),
        distill_config=DistillConfig(
            teacher_model=paddle.DataParallel(teacher), mapping_layers=["bert.embeddings"], teacher_engine="dygraph"
        ),
    )
    ofa.set_net_config(ofa.search_space.largest())
    student, answer = ofa(*inputs)
    assert difference(student, expected) == 0
    assert difference(answer, expected) == 0
    assert float(ofa.calc_distill_loss()) == 0
    assert type(ofa.export(config=ofa.search_space.smallest())) is type(model)


def test_two_objects_may_wrap_one_model_one_after_the_other() -> None:
    model = bert(layers=3)
    first = ofa_of(model)
    first(*batch())
    second = OFA(model, DEEP)
    with second.subnet(second.search_space.smallest()):
        second(*batch())
    assert first.search_space["encoder.depth"].choices == (3,)


def test_training_all_widths_at_once_lowers_the_loss_of_each() -> None:
    model, inputs, target = bert(), batch(rows=8), labels(rows=8)
    ofa = ofa_of(model, copy.deepcopy(model), ratios=[1.0, 0.5, 0.25], mapping_layers=["bert.encoder.layers.1"])
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=ofa.parameters())
    configs = [dynabert_config(ofa, width) for width in (1.0, 0.5, 0.25)]

    def losses(backward: bool) -> list[float]:
        found = []
        for config in configs:
            ofa.set_net_config(config)
            student, _ = ofa(*inputs)
            loss = nn.functional.cross_entropy(student, target) + ofa.calc_distill_loss()
            if backward:
                loss.backward()
            found.append(float(loss))
        return found

    before = losses(backward=False)
    ofa.train()
    for _ in range(15):
        losses(backward=True)
        optimizer.step()
        optimizer.clear_grad()
    ofa.eval()
    assert all(new < old for new, old in zip(losses(backward=False), before, strict=True))


def test_distilling_without_a_teacher_is_named() -> None:
    ofa = ofa_of(Tagger())
    with pytest.raises(DistillError, match="calc_distill_loss needs OFA"):
        ofa.calc_distill_loss()
    assert ofa.netAs_param == []
    assert isinstance(ofa(batch()[0]), paddle.Tensor)
