"""The one call with training: any model, its own loader and score, a budget."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

import ofa_slim
from families import FAMILIES, inputs
from models import batch, bert
from ofa_slim import OFA, Finish, TeacherCache, Training, load_subnet
from ofa_slim.errors import BudgetError, ConfigError, OfaSlimError, SearchError
from ofa_slim.job import distilling
from ofa_slim.job.distilling import soft_loss
from ofa_slim.job.with_training import inputs_of
from ofa_slim.train.builders import elastic_blocks
from ofa_slim.train.feeds import LoaderFeed
from teacher_caches import rows_asked

QUICK = Training(epochs=2, candidates=6, order_rows=64)


def cnn() -> nn.Layer:
    paddle.seed(0)
    return nn.Sequential(
        nn.Conv2D(1, 8, 3, padding=1),
        nn.BatchNorm2D(8),
        nn.ReLU(),
        nn.Conv2D(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2D(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def images(batches: int = 3, rows: int = 32) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
    rng = np.random.default_rng(0)
    pairs = ((rng.standard_normal((rows, 1, 6, 6)), rng.integers(0, 3, rows)) for _ in range(batches))
    return [(paddle.to_tensor(x.astype("float32")), paddle.to_tensor(y)) for x, y in pairs]


def like_the_original(model: nn.Layer) -> float:
    """Minus the distance from the original's answers, so that the whole model is the best."""
    (batch, _) = images(1)[0]
    original = cnn()
    original.eval()
    return -float((model(batch) - original(batch)).abs().mean())


def weights(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sub-networks each training step ran."""
    found: list[int] = []
    train_step = OFA.train_step

    def counted(self: OFA, batch: object, loss_fn: object, configs: list[object], *more: object) -> object:
        found.append(len(configs))
        return train_step(self, batch, loss_fn, configs, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(OFA, "train_step", counted)
    return found


def test_a_cnn_becomes_one_within_the_budget_and_the_same_call_goes_on(tmp_path: Path, steps: list[int]) -> None:
    model = cnn()
    before = weights(model)
    budget = {"params_ratio": 0.5}
    found = ofa_slim.compress(model, images(), like_the_original, budget, QUICK, directory=tmp_path / "run")
    assert steps == [4] * 6
    report = found.report
    counted = sum(parameter.size for parameter in found.model.parameters())
    assert report.costs["params"] == counted <= 0.5 * report.original_costs["params"]
    assert report.score == like_the_original(found.model) < report.original_score == 0
    assert all(point.within for point in report.front)
    assert model.training
    assert not found.model.training
    assert same(before, weights(model))
    assert f"-> {report.score:.4g}\n" in str(report)
    again = ofa_slim.compress(cnn(), images(), like_the_original, budget, QUICK, directory=tmp_path / "run")
    assert len(steps) == 6
    assert same(weights(found.model), weights(again.model))
    found.save(tmp_path / "small")
    assert same(weights(found.model), weights(load_subnet(tmp_path / "small", cnn())))
    assert json.loads((tmp_path / "small" / "report.json").read_text())["score"] == report.score


def test_the_chosen_one_then_trains_alone_and_the_same_call_restores_it(tmp_path: Path, steps: list[int]) -> None:
    budget, finish = {"params_ratio": 0.5}, Finish(epochs=3, learning_rate=1e-2)
    found = ofa_slim.compress(cnn(), images(), like_the_original, budget, QUICK, directory=tmp_path, finish=finish)
    assert steps == [4] * 6 + [1] * 9
    report = found.report
    assert report.cut_score is not None
    assert report.cut_score < report.score == like_the_original(found.model)
    assert f"({report.cut_score:.4g} before it trained alone)" in str(report)
    assert [type(layer) for layer in found.model] == [type(layer) for layer in cnn()], "nothing elastic is left"
    assert not found.model.training
    again = ofa_slim.compress(cnn(), images(), like_the_original, budget, QUICK, directory=tmp_path, finish=finish)
    assert len(steps) == 15
    assert same(weights(found.model), weights(again.model))
    other = Finish(epochs=4, learning_rate=1e-2)
    with pytest.raises(OfaSlimError, match=r"epochs .*3 there, 4 now"):
        ofa_slim.compress(cnn(), images(), like_the_original, budget, QUICK, directory=tmp_path, finish=other)


def test_a_model_made_smaller_without_a_supernet_trains_alone(
    tmp_path: Path, steps: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model = FAMILIES["bert"]()
    before = weights(model)
    batches = [{**inputs("bert", 8, 9, seed), "labels": paddle.zeros([8], "int64")} for seed in range(4)]
    budget, finish = {"flops_ratio": 0.5}, Finish(epochs=4, learning_rate=1e-3)
    found = ofa_slim.compress(model, batches, budget=budget, finish=finish, directory=tmp_path)
    assert steps == [1] * 16
    _, repaired, finished = found.report.divergence
    assert finished < repaired, "the outputs come closer to the original's"
    assert f"{finished:.4g} finished" in str(found.report)
    assert found.report.to_dict()["divergence"]["finished"] == finished
    assert same(before, weights(model))
    assert "is elastic" not in caplog.text
    found.save(tmp_path / "small")
    assert same(weights(found.model), weights(load_subnet(tmp_path / "small")))
    again = ofa_slim.compress(model, batches, budget=budget, finish=finish, directory=tmp_path)
    assert len(steps) == 16
    assert same(weights(found.model), weights(again.model))


def test_a_second_sub_network_learns_from_the_answers_that_the_first_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = rows_asked(distilling, monkeypatch)
    model, batches = FAMILIES["bert"](), [inputs("bert", 8, 9, seed) for seed in range(4)]
    for share in (0.5, 0.3):
        finish = Finish(epochs=3, learning_rate=1e-3, cache_teacher=TeacherCache(tmp_path, rows=32))
        found = ofa_slim.compress(model, batches, budget={"flops_ratio": share}, finish=finish)
        assert found.report.divergence[2] < found.report.divergence[1]
    assert sum(asked) == 32


@pytest.mark.parametrize("dropout", [False, True])
def test_finishing_drops_nothing_unless_it_is_told_to(dropout: bool) -> None:
    model, batches = FAMILIES["bert"](), [inputs("bert", 8, 9, seed) for seed in range(2)]
    for layer in model.sublayers():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.5
        if isinstance(layer, nn.MultiHeadAttention):
            layer.dropout = 0.5
    found = [
        ofa_slim.compress(
            model, batches, budget={"flops_ratio": 0.5}, finish=Finish(learning_rate=1e-3, seed=seed, dropout=dropout)
        )
        for seed in (0, 1)
    ]
    assert same(*(weights(one.model) for one in found)) != dropout, "a seed is that of what is dropped"
    kept = [layer.p for layer in found[0].model.sublayers() if isinstance(layer, nn.Dropout)]
    assert kept
    assert set(kept) == {0.5}


@pytest.mark.slow
def test_what_is_left_out_stays_out_while_the_rest_trains_alone() -> None:
    batches = [inputs("bert", 8, 9, seed) for seed in range(4)]
    budget, finish = {"flops_ratio": 0.12}, Finish(epochs=4, learning_rate=1e-3)
    found = ofa_slim.compress(FAMILIES["bert"](), batches, budget=budget, omit=True, finish=finish)
    assert 0 in dict(found.report.config).values()
    assert found.report.costs["flops_ratio"] <= 0.12
    assert sum(parameter.size for parameter in found.model.parameters()) == found.report.costs["params"]
    assert found.report.divergence[2] < found.report.divergence[1]


def test_it_trains_the_same_where_gradients_were_switched_off() -> None:
    rows = [inputs("bert", 8, 9, seed) for seed in range(2)]
    model, found = FAMILIES["bert"](), []
    for gradients in (True, False):
        with paddle.set_grad_enabled(gradients):
            small = ofa_slim.compress(model, rows, budget={"flops_ratio": 0.6}, finish=Finish(epochs=2)).model
        found.append({name: value.numpy() for name, value in small.state_dict().items()})
    assert all(np.array_equal(value, found[1][name]) for name, value in found[0].items())


def test_whole_numbers_of_numpy_are_kept_as_plain_ones(tmp_path: Path) -> None:
    rows = [inputs("bert", 8, 9, seed) for seed in range(2)]
    finish = Finish(epochs=np.int64(1), seed=np.int32(3), trial_steps=np.int64(2))
    ofa_slim.compress(
        FAMILIES["bert"](), rows, budget={"flops_ratio": 0.5}, omit=True, finish=finish, directory=tmp_path
    )
    assert [type(value) for value in (finish.epochs, finish.seed, Training(epochs=np.int64(2)).epochs)] == [int] * 3


def test_a_model_of_which_nothing_trains_is_refused() -> None:
    rows = [inputs("bert", 8, 9, seed) for seed in range(2)]
    model = FAMILIES["bert"]()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    with pytest.raises(ConfigError, match="no parameter of BertForSequenceClassification trains; all have stop_gradie"):
        ofa_slim.compress(model, rows, budget={"flops_ratio": 0.6}, finish=Finish(epochs=2))


@pytest.mark.slow
def test_formats_are_checked_by_the_rows_of_the_loader(tmp_path: Path) -> None:
    found = ofa_slim.compress(cnn(), images(), like_the_original, {"params_ratio": 0.5}, QUICK)
    found.save(tmp_path, formats=["inference"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.json", "inference", "report.json"]


def test_a_directory_of_another_model_is_refused(tmp_path: Path) -> None:
    ofa_slim.compress(cnn(), images(), like_the_original, {"params_ratio": 0.9}, QUICK, directory=tmp_path)
    other = cnn()
    other[0].weight.set_value(other[0].weight * 2)
    with pytest.raises(OfaSlimError, match="model"):
        ofa_slim.compress(other, images(), like_the_original, {"params_ratio": 0.9}, QUICK, directory=tmp_path)


def test_a_transformer_of_a_family_learns_by_a_loss_of_the_user() -> None:
    model = FAMILIES["bert"]()
    batches = [{**inputs("bert", 8, 9, seed), "labels": paddle.zeros([8], "int64")} for seed in range(4)]
    seen: list[list[str]] = []

    def loss(output: paddle.Tensor, teacher_output: paddle.Tensor, batch: dict[str, paddle.Tensor]) -> paddle.Tensor:
        seen.append(sorted(batch))
        return ((output - teacher_output) ** 2).mean() + 0 * batch["labels"].sum().astype("float32")

    training = Training(epochs=1, depths=(0.5,), candidates=8, random_subnets=0, loss=loss)
    budget = {"flops_ratio": 0.7, "params_ratio": 0.95}
    found = ofa_slim.compress(model, batches, lambda one: {"size": 1.0, "other": 2.0}, budget, training)
    assert found.report.metric == "size"
    assert found.report.costs["flops_ratio"] <= 0.7
    assert seen == [sorted(batches[0])] * 8
    assert set(found.samples[0]) == set(inputs("bert", 8, 9, 0))


@pytest.mark.parametrize(("heads", "kept"), [(6, {6, 4, 3, 2}), (5, {5, 4, 2, 1}), (1, {1})])
def test_default_widths_are_whole_heads_of_any_model(heads: int, kept: set[int]) -> None:
    model = bert(layers=1, heads=heads, head_dim=4, ffn=30)
    batches = [{"input_ids": batch(8, seed=seed)[0]} for seed in range(8)]
    training = Training(epochs=0, order=False, candidates=1)
    ofa_slim.compress(model, batches, lambda one: 1.0, {"params_ratio": 1.0}, training)
    space = OFA(model, elastic_blocks(model, training.widths, training.depths)).search_space
    sizes = {axis.name: set(axis.choices) for axis in space.axes}
    assert sizes["encoder.0.heads"] == kept
    assert sizes["encoder.0.ffn"] == {30, 22, 15, 8}


def test_a_budget_out_of_reach_says_what_reaches_further() -> None:
    batches = [{"input_ids": batch(8, seed=seed)[0]} for seed in range(8)]
    training = Training(epochs=0, order=False, candidates=1)
    with pytest.raises(BudgetError, match=r"params_ratio <= 0.01; the cheapest .*; with training=Training\(depths="):
        ofa_slim.compress(bert(), batches, lambda one: 1.0, {"params_ratio": 0.01}, training)


def test_a_loader_goes_on_in_the_middle_of_a_pass() -> None:
    feed = LoaderFeed([0, 1, 2], epochs=2, accumulate=2)
    assert [batch for batch, _ in feed.next_group()] == [0, 1]
    later = LoaderFeed([0, 1, 2], epochs=2, accumulate=2)
    later.set_state_dict(feed.state_dict())
    for one in (feed, later):
        assert [[batch for batch, _ in one.next_group()] for _ in range(3)] == [[2, 0], [1, 2], []]


def test_labels_are_told_from_inputs() -> None:
    one, two = paddle.zeros([2, 1]), paddle.ones([2])

    class Pair(nn.Layer):
        def forward(self, left: paddle.Tensor, right: paddle.Tensor, scale: float = 1.0) -> paddle.Tensor:
            return left * right * scale

    model = Pair()
    assert inputs_of(model, (one, two)) == inputs_of(model, [one, two, one]) == (one, two)
    assert inputs_of(model, {"left": one, "right": two, "labels": one, "id": two}) == {"left": one, "right": two}
    assert inputs_of(model, one) is one
    with pytest.raises(ConfigError, match="batches of 4, and the forward of Pair needs 2"):
        inputs_of(model, (one, two, one, two))


def test_the_soft_loss_is_zero_at_the_teacher_and_compares_images_by_channel() -> None:
    logits = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32"))
    assert float(soft_loss([logits, logits], [logits])) == pytest.approx(0, abs=1e-6)
    # A constant added to all channels of a pixel is the same distribution.
    assert float(soft_loss(logits + paddle.rand([2, 1, 4, 5]), logits)) == pytest.approx(0, abs=1e-5)
    assert float(soft_loss(logits + paddle.rand([1, 3, 1, 1]), logits)) > 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eval_func": {"params_ratio": 0.5}}, "name the other: budget="),
        ({"eval_func": 3}, "eval_func is a int"),
        ({"budget": None}, "needs a budget"),
        ({"training": "yes"}, "training is 'yes'"),
        ({"eval_func": None, "training": QUICK}, "training needs eval_func"),
        ({"eval_func": None, "directory": "runs"}, "directory keeps measured times and trainings"),
        ({"finish": 2}, "finish is 2; it is None or ofa_slim.Finish"),
        ({"engine": "fast"}, "engine 'fast' is not one of inference, onnx, onnx-int8"),
        ({"eval_func": None, "finish": Finish(), "loader": iter(images())}, "cannot be gone through again"),
        ({"budget": {"speed": 3}}, "no cost 'speed'"),
        ({"budget": {"params": 3}}, "params <= 3"),
        ({"loader": iter(images())}, "cannot be gone through again"),
        ({"loader": []}, "the loader has no batch"),
        ({"training": Training(depths=(0.5, 1.0))}, "no single stack of blocks"),
    ],
)
def test_wrong_uses_are_named_before_training(given: dict[str, object], message: str, steps: list[int]) -> None:
    right: dict[str, object] = {"loader": images(), "eval_func": like_the_original, "budget": {"params_ratio": 0.5}}
    with pytest.raises(OfaSlimError, match=message):
        ofa_slim.compress(cnn(), **{**right, **given})  # type: ignore[arg-type]
    assert not steps


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 0},
        {"learning_rate": -1},
        {"loss": 3},
        {"checkpoint_every": 0},
        {"cache_teacher": "answers"},
        {"dropout": 0.1},
    ],
)
def test_a_finish_that_cannot_be_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        Finish(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [{"epochs": -1}, {"learning_rate": float("nan")}, {"widths": ()}, {"depths": (0,)}, {"seed": True}, {"loss": 3}],
)
def test_a_training_that_cannot_be_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        Training(**given)  # type: ignore[arg-type]


def test_a_score_that_is_no_number_ends_before_training(steps: list[int]) -> None:
    with pytest.raises(SearchError, match="score"):
        ofa_slim.compress(cnn(), images(), lambda model: float("nan"), {"params_ratio": 0.5}, QUICK)
    assert not steps
