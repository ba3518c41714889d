"""`train_step` adds up what the published loop adds up, and leaves the supernet as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from models import Tagger, batch, bert, configs, labels, ofa_of
from ofa_slim import OFA, Convert, SearchSpace, SubnetConfig, supernet
from ofa_slim.base.nested import first_tensor
from ofa_slim.errors import ConfigError, DistillError, IllegalSubnetError
from ofa_slim.supernet.axis import Axis, Slot
from ofa_slim.train.stem import stem_layers

LAYERS = ["bert.embeddings", "bert.encoder.layers.0", "bert.encoder.layers.1"]


def learning(**distill: Any) -> OFA:
    """A supernet whose teacher is another model, so that there is something to learn."""
    return ofa_of(bert(), bert(), mapping_layers=LAYERS, lambda_distill=0.3, **distill)


def gradients(ofa: OFA) -> dict[str, np.ndarray]:
    """By name, of the parameters that have one; they are cleared."""
    found = {name: p.grad.numpy().copy() for name, p in ofa.model.named_parameters() if p.grad is not None}
    ofa.clear_gradients()
    return found


def soft(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    return F.cross_entropy(student, F.softmax(teacher), soft_label=True)


def test_a_step_trains_whatever_the_process_was_left_in() -> None:
    ofa, inputs = learning(), batch()
    chosen = [ofa.search_space.smallest(), ofa.search_space.largest()]
    ofa.train_step(inputs, soft, chosen)
    expected = gradients(ofa)
    with paddle.no_grad():
        ofa.train_step(inputs, soft, chosen)
    found = gradients(ofa)
    assert expected
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def published_loop(ofa: OFA, inputs: Any, chosen: list[Any]) -> list[float]:
    losses = []
    for config in chosen:
        ofa.set_net_config(config)
        student, teacher = ofa(*inputs)
        loss = soft(student, teacher) + ofa.calc_distill_loss()
        loss.backward()
        losses.append(float(loss))
    ofa.set_net_config(None)
    return losses


SPACE = ofa_of(bert()).search_space


@given(chosen=st.lists(configs(SPACE), min_size=1, max_size=3), rows=st.integers(1, 4))
def test_gradients_and_losses_are_those_of_the_published_loop(chosen: list[SubnetConfig], rows: int) -> None:
    paddle.seed(0)
    ofa, inputs = learning(), batch(rows)
    ofa.train()
    expected = published_loop(ofa, inputs, chosen)
    wanted = gradients(ofa)
    losses = ofa.train_step(inputs, soft, chosen)
    found = gradients(ofa)
    np.testing.assert_allclose([float(loss) for loss in losses], expected, rtol=1e-6)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-6 * max(1.0, np.abs(gradient).max()), err_msg=name)


READS = ("numpy", "item", "tolist", "cpu", "__array__", "__float__", "__int__", "__bool__", "__index__")


@pytest.mark.parametrize("engine", ["static", "dygraph"])
def test_a_step_reads_no_number_back_from_the_device(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read waits for a GPU. "static" is the teacher's engine there; "inference" is for CPUs."""
    ofa = learning(teacher_engine=engine)
    ofa.train()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=ofa.parameters())
    chosen = [ofa.search_space.largest(), ofa.search_space.smallest()]
    batches = [batch(seed=seed) for seed in range(4)]
    read: list[str] = []

    def step(inputs: Any) -> Any:
        losses = ofa.train_step(inputs, soft, chosen)
        optimizer.step()
        optimizer.clear_grad()
        return losses

    def noted(name: str) -> Any:
        whole = getattr(paddle.Tensor, name)
        return lambda tensor, *given, **more: read.append(name) or whole(tensor, *given, **more)

    for inputs in batches[:2]:  # the teacher becomes a program
        step(inputs)
    for name in READS:
        monkeypatch.setattr(paddle.Tensor, name, noted(name))
    losses = [step(inputs) for inputs in batches[2:]][-1]
    assert read == []
    assert float(losses[0]) > 0
    assert bool(losses[0] > 0)
    assert {"__float__", "__bool__"} <= set(read), "reads are noticed"


@pytest.mark.parametrize("form", ["tuple", "list", "dictionary"])
def test_a_batch_may_have_any_form(form: str) -> None:
    ofa, (ids, types) = learning(), batch()
    chosen = [ofa.search_space.smallest()]
    expected = published_loop(ofa, (ids, types), chosen)
    given: Any = {
        "tuple": (ids, types),
        "list": [ids, types],
        "dictionary": {"input_ids": ids, "token_type_ids": types},
    }
    assert float(ofa.train_step(given[form], soft, chosen)[0]) == pytest.approx(expected[0], rel=1e-6)


def test_a_tensor_alone_and_no_teacher() -> None:
    model = Tagger()
    Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model)
    ofa, ids = OFA(model), batch()[0]
    target = labels(21, 5).reshape([3, 7])
    losses = ofa.train_step(ids, lambda output: F.cross_entropy(output, target), [ofa.search_space.smallest()])
    with ofa.subnet(ofa.search_space.smallest()):
        expected = F.cross_entropy(ofa(ids), target)
    assert float(losses[0]) == pytest.approx(float(expected))
    assert losses[0].stop_gradient


def test_the_supernet_runs_after_a_step_as_before_it() -> None:
    ofa, inputs = learning(), batch()
    ofa.set_net_config(ofa.search_space.smallest())
    before = ofa(*inputs)[0]
    ofa.train_step(inputs, soft, [ofa.search_space.largest()])
    assert ofa.net_config == ofa.search_space.smallest()
    assert (ofa.model(*inputs) == before).all()
    assert "forward" not in vars(ofa.model.bert.embeddings)
    with pytest.raises(ZeroDivisionError):
        ofa.train_step(inputs, lambda student, teacher: 1 / 0, [ofa.search_space.largest()])
    assert (ofa.model(*inputs) == before).all()
    assert "forward" not in vars(ofa.model.bert.embeddings)


def test_without_configs_it_trains_the_set_or_a_sampled_one() -> None:
    ofa, inputs = learning(), batch()
    ofa.set_net_config(ofa.search_space.smallest())
    assert len(ofa.train_step(inputs, soft)) == 1
    smallest = ofa.current_config
    ofa.set_net_config(None)
    seen = []
    for _ in range(4):
        ofa.train_step(inputs, soft)
        seen.append(ofa.current_config)
    assert any(config != smallest for config in seen)


def test_scale_is_for_gradients_and_not_for_the_losses_returned() -> None:
    ofa, inputs = learning(), batch()
    chosen = [ofa.search_space.largest(), ofa.search_space.smallest()]
    whole_losses = ofa.train_step(inputs, soft, chosen)
    whole = gradients(ofa)
    for _ in range(2):
        halves = ofa.train_step(inputs, soft, chosen, scale=0.5)
    assert [float(loss) for loss in halves] == pytest.approx([float(loss) for loss in whole_losses])
    for name, gradient in gradients(ofa).items():
        np.testing.assert_allclose(gradient, whole[name], atol=1e-5, err_msg=name)


class Eightfold:
    """Scales as `paddle.amp.GradScaler` does where the device has it."""

    def scale(self, loss: paddle.Tensor) -> paddle.Tensor:
        return 8.0 * loss


def test_a_scaler_multiplies_the_gradients_by_its_scale() -> None:
    ofa, inputs = learning(), batch()
    chosen = [ofa.search_space.largest()]
    ofa.train_step(inputs, soft, chosen)
    plain = gradients(ofa)
    scaler: Any = Eightfold()
    ofa.train_step(inputs, soft, chosen, scaler=scaler)
    for name, gradient in gradients(ofa).items():
        np.testing.assert_allclose(gradient, 8 * plain[name], atol=1e-4, err_msg=name)


def test_the_embedding_runs_once_for_all_sub_networks() -> None:
    ofa, inputs = learning(), batch()
    calls: list[int] = []
    embedding = ofa.model.bert.embeddings.word_embeddings
    embedding.register_forward_post_hook(lambda layer, given, output: calls.append(1))
    ofa.train_step(inputs, soft, [ofa.search_space.largest(), ofa.search_space.smallest()])
    assert len(calls) == 1
    assert float(embedding.weight.grad.abs().sum()) > 0


class Twice(nn.Layer):
    """Embeds two inputs with the same layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0), 1)

    def forward(self, one: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
        return self.body(self.embed(one) + 2 * self.embed(other))


def test_a_layer_that_is_called_with_other_inputs_runs_for_them() -> None:
    model, inputs = Twice(), (batch(seed=0)[0], batch(seed=1)[0])
    Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model)
    ofa = OFA(model)
    chosen = [ofa.search_space.largest(), ofa.search_space.smallest()]
    losses = ofa.train_step(inputs, lambda output: (output**2).sum(), chosen)
    found = gradients(ofa)
    for config, loss in zip(chosen, losses, strict=True):
        with ofa.subnet(config):
            expected = (ofa(*inputs) ** 2).sum()
            expected.backward()
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    for name, gradient in gradients(ofa).items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_largest_teaches_the_others_in_place() -> None:
    ofa = ofa_of(bert(), "self", mapping_layers=LAYERS)
    inputs, answers = batch(), labels()
    largest, smallest = ofa.search_space.largest(), ofa.search_space.smallest()
    with ofa.subnet(largest):
        taught = ofa.model(*inputs)
        expected_largest = F.cross_entropy(taught, answers)
    with ofa.subnet(smallest):
        student, teacher = ofa(*inputs)
        assert (teacher == taught).all()
        expected = soft(student, teacher.detach()) + ofa.calc_distill_loss()
    expected.backward()
    expected_largest.backward()
    wanted = gradients(ofa)

    def loss_fn(student: paddle.Tensor, teacher: paddle.Tensor | None = None) -> paddle.Tensor:
        return F.cross_entropy(student, answers) if teacher is None else soft(student, teacher)

    losses = ofa.train_step(inputs, loss_fn, [smallest, largest])
    assert float(losses[0]) == pytest.approx(float(expected), rel=1e-5)
    assert float(losses[1]) == pytest.approx(float(expected_largest), rel=1e-5)
    for name, gradient in gradients(ofa).items():
        np.testing.assert_allclose(gradient, wanted[name], atol=1e-5, err_msg=name)
    with pytest.raises(ConfigError, match="largest sub-network teaches the others, so it has to be among"):
        ofa.train_step(inputs, loss_fn, [smallest])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda student, teacher: student,
            r"loss_fn returned a tensor of shape \[3, 3\], not a tensor with one number",
        ),
        (lambda student, teacher: 1.0, "loss_fn returned float, not a tensor"),
    ],
)
def test_a_loss_that_is_none_is_named(loss: Any, message: str) -> None:
    ofa = learning()
    with pytest.raises(ConfigError, match=message):
        ofa.train_step(batch(), loss, [ofa.search_space.largest()])
    with pytest.raises(ConfigError, match="configs is empty"):
        ofa.train_step(batch(), soft, [])
    with pytest.raises(IllegalSubnetError, match="no axis"):
        ofa.train_step(batch(), soft, [SubnetConfig({"encoder.9.heads": 1})])
    assert all(parameter.grad is None for parameter in ofa.parameters())


def test_nothing_of_a_step_is_kept_alive() -> None:
    ofa, inputs = learning(), batch()
    outputs: list[Any] = []
    model = ofa.model.bert.encoder.layers[0]
    import weakref

    hook = model.register_forward_post_hook(lambda layer, given, output: outputs.append(weakref.ref(output)))
    alive: list[int] = []

    def loss_fn(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
        alive.append(sum(ref() is not None for ref in outputs))
        return soft(student, teacher)

    ofa.train_step(inputs, loss_fn, [ofa.search_space.largest()] * 3)
    hook.remove()
    # Of the sub-networks before only the teacher's and the stem's tensors may be left.
    assert alive == [1, 1, 1]


def test_a_copy_of_the_model_can_be_trained_as_well() -> None:
    ofa = learning()
    ofa.train_step(batch(), soft, [ofa.search_space.largest()])
    copied = copy.deepcopy(ofa.model)
    assert copied(*batch()).shape == [3, 3]


class Logits(NamedTuple):
    logits: paddle.Tensor


class Tower(nn.Layer):
    """Embeds with a layer that is the model's own too."""

    def __init__(self, embed: nn.Embedding) -> None:
        super().__init__()
        self.embed = embed
        self.extra = nn.Embedding(50, 16)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.embed(ids) + self.extra(ids)


class Named(nn.Layer):
    """Its parts give their output in other containers."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0), 1)
        self.kind = kind

    def forward(self, ids: paddle.Tensor) -> Any:
        return self.kind(self.body(self.embed(ids)))


def test_a_layer_under_two_names_is_cut_under_both() -> None:
    class Both(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.tower = Tower(self.embed)

    model = Both()
    space = SearchSpace([Axis("width", 16, (8, 16), (Slot("embed", "out"),))])
    assert stem_layers(model, space) == [model.tower.extra]


@pytest.mark.parametrize("kind", [lambda x: OrderedDict(logits=x), lambda x: Logits(x)], ids=["dictionary", "tuple"])
def test_the_largest_teaches_through_other_containers(kind: Any) -> None:
    model, ids = Named(kind), batch()[0]
    ofa = ofa_of(model, "self")

    def loss_fn(student: Any, teacher: Any = None) -> paddle.Tensor:
        one, other = (first_tensor(answer) for answer in (student, student if teacher is None else teacher))
        return F.mse_loss(one, other) + (one**2).mean()

    losses = ofa.train_step(ids, loss_fn, [ofa.search_space.largest(), ofa.search_space.smallest()])
    assert len(losses) == 2


class Sealed:
    """Hides a tensor."""

    def __init__(self, logits: paddle.Tensor) -> None:
        self.logits = logits


def test_an_answer_that_cannot_be_cut_off_is_refused() -> None:
    ofa, ids = ofa_of(Named(Sealed), "self"), batch()[0]
    with pytest.raises(DistillError, match="output holds a Sealed, from which its gradients cannot be cut off"):
        ofa.train_step(ids, lambda one, other=None: one.logits.sum(), [ofa.search_space.largest()])
    assert ofa._to_compare == ({}, None)


def test_one_config_in_place_of_a_list_is_named() -> None:
    ofa = learning()
    with pytest.raises(ConfigError, match="configs is one config; give a list of them"):
        ofa.train_step(batch(), soft, ofa.search_space.largest())  # type: ignore[arg-type]
