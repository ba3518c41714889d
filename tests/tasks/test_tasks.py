"""Losses, distillation and metrics of every kind of task; what does not count counts nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from scipy.special import log_softmax, softmax

from ofa_slim.errors import ConfigError
from ofa_slim.job.glue import TASKS
from ofa_slim.tasks import (
    IGNORED,
    LanguageModelling,
    QuestionAnswering,
    Regression,
    SequenceClassification,
    SpanScoring,
    TaskKind,
    TokenClassification,
    padding_mask,
    squad_metrics,
)

ROWS, LENGTH, CLASSES = 3, 6, 4
TAGS = ["O", "B-CITY", "I-CITY", "B-DAY"]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32") * 3


def real(*lengths: int) -> np.ndarray:
    return np.arange(LENGTH)[None, :] < np.array(lengths)[:, None]


REAL = real(6, 4, 3)
IDS = np.random.default_rng(0).integers(0, CLASSES, (ROWS, LENGTH))
TOKEN_LABELS = np.where(REAL, IDS, 2)  # labels of padding that look like any other
TOKEN_LABELS[0, 2] = TOKEN_LABELS[1, 0] = IGNORED


def tensors(value: Any) -> Any:
    return tuple(map(tensors, value)) if isinstance(value, tuple) else paddle.to_tensor(value)


def tokens_counted() -> np.ndarray:
    return REAL & (TOKEN_LABELS != IGNORED)


def next_counted() -> np.ndarray:
    return np.pad(tokens_counted()[:, 1:], ((0, 0), (0, 1)))


# kind, makes random outputs, labels, which positions of the outputs count
Case = tuple[TaskKind, Callable[[int], Any], Any, np.ndarray]
SPANS = (REAL * (IDS == 1)).astype("float32"), (REAL * (IDS == 2)).astype("float32")
SPANS_IGNORED = np.where(TOKEN_LABELS == IGNORED, IGNORED, SPANS[0]).astype("float32")
CASES: dict[str, Case] = {
    "token classification": (
        TokenClassification(),
        lambda seed: random(ROWS, LENGTH, CLASSES, seed=seed),
        TOKEN_LABELS,
        tokens_counted(),
    ),
    "language modelling": (
        LanguageModelling(),
        lambda seed: random(ROWS, LENGTH, CLASSES, seed=seed),
        TOKEN_LABELS,
        next_counted(),
    ),
    "language modelling in place": (
        LanguageModelling(shift=False),
        lambda seed: random(ROWS, LENGTH, CLASSES, seed=seed),
        TOKEN_LABELS,
        tokens_counted(),
    ),
    "question answering": (
        QuestionAnswering(),
        lambda seed: (random(ROWS, LENGTH, seed=seed), random(ROWS, LENGTH, seed=seed + 1)),
        (np.array([1, 2, IGNORED]), np.array([4, 3, 2])),
        REAL,
    ),
    "span scoring": (
        SpanScoring(),
        lambda seed: tuple(1 / (1 + np.exp(-random(ROWS, LENGTH, seed=seed + place))) for place in range(2)),
        (SPANS_IGNORED, SPANS_IGNORED),
        tokens_counted(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_padding_and_ignored_labels_count_in_no_loss(name: str) -> None:
    kind, output, labels, counted = CASES[name]
    teacher, mask, labels = tensors(output(5)), tensors(REAL), tensors(labels)

    def losses(student: Any, answer: Any) -> list[paddle.Tensor]:
        return [kind.loss(student, labels, mask), kind.distill(student, answer, labels, mask)]

    student = tensors(output(7))
    parts = student if isinstance(student, tuple) else (student,)
    for part in parts:
        part.stop_gradient = False
    for loss in losses(student, teacher):
        grads = paddle.grad(loss, list(parts))
        for grad in grads:
            there = np.abs(grad.numpy()).reshape(ROWS, LENGTH, -1).max(axis=-1)
            assert (there[~counted] == 0).all()
            if name != "question answering":  # a row of it may be ignored whole
                assert (there[counted] > 0).all()
        assert float(loss) > 0

    def changed(value: Any, by: Any) -> Any:
        keeps = paddle.to_tensor(counted)
        if isinstance(value, tuple):
            return tuple(paddle.where(keeps, one, other) for one, other in zip(value, by, strict=True))
        return paddle.where(keeps.unsqueeze(-1), value, by)

    others = losses(changed(student, tensors(output(11))), changed(teacher, tensors(output(12))))
    for one, other in zip(losses(student, teacher), others, strict=True):
        assert float(one) == float(other)


@pytest.mark.parametrize("name", CASES)
def test_without_labels_all_padding_mask_are_distilled(name: str) -> None:
    kind, output, _, _ = CASES[name]
    student, teacher = tensors(output(1)), tensors(output(2))
    everywhere = kind.distill(student, teacher)
    assert float(kind.distill(student, teacher, real=paddle.ones([ROWS, LENGTH], "bool"))) == pytest.approx(
        float(everywhere), rel=1e-5
    )
    assert float(kind.distill(student, teacher, real=paddle.to_tensor(REAL))) != pytest.approx(float(everywhere))


def test_the_losses_of_tokens_are_means_over_what_counts() -> None:
    kind = TokenClassification()
    student, teacher = random(ROWS, LENGTH, CLASSES), random(ROWS, LENGTH, CLASSES, seed=1)
    counted = tokens_counted()
    known = log_softmax(student, axis=-1)
    expected = -np.mean([known[place][TOKEN_LABELS[place]] for place in zip(*np.nonzero(counted), strict=True)])
    labels, mask = paddle.to_tensor(TOKEN_LABELS), paddle.to_tensor(REAL)
    assert float(kind.loss(paddle.to_tensor(student), labels, mask)) == pytest.approx(expected, rel=1e-5)
    soft = -(softmax(teacher / 2, axis=-1) * log_softmax(student / 2, axis=-1)).sum(axis=-1)
    found = kind.distill(paddle.to_tensor(student), paddle.to_tensor(teacher), labels, mask, temperature=2.0)
    assert float(found) == pytest.approx(4 * soft[counted].mean(), rel=1e-5)


def test_language_modelling_compares_each_logit_with_the_next_token() -> None:
    logits = random(2, 5, 7)
    ids = np.random.default_rng(1).integers(0, 7, (2, 5))
    known = log_softmax(logits, axis=-1)
    expected = -np.mean([known[row, place, ids[row, place + 1]] for row in range(2) for place in range(4)])
    kind = LanguageModelling()
    assert float(kind.loss(paddle.to_tensor(logits), paddle.to_tensor(ids))) == pytest.approx(expected, rel=1e-5)
    moved = np.concatenate([ids[:, 1:], np.full((2, 1), IGNORED)], axis=1)
    in_place = LanguageModelling(shift=False).loss(paddle.to_tensor(logits), paddle.to_tensor(moved))
    assert float(in_place) == pytest.approx(expected, rel=1e-5)
    reduced = kind.reduced(paddle.to_tensor(logits), paddle.to_tensor(ids)).numpy()
    assert reduced.shape == (2, 4, 2)
    found = kind.metrics(reduced, ids)
    assert found["perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)
    assert found["accuracy"] == (logits.argmax(-1)[:, :-1] == ids[:, 1:]).mean()
    # Rows of another length were padded behind their end.
    wider = np.pad(reduced, ((0, 0), (0, 3), (0, 0)), constant_values=IGNORED)
    assert kind.metrics(wider, np.pad(ids, ((0, 0), (0, 3)), constant_values=IGNORED)) == found


def test_question_answering_has_no_weight_on_padding() -> None:
    """Not even in the softmax: the loss is that of a row which ends there."""
    kind = QuestionAnswering()
    output, teacher = (random(1, LENGTH), random(1, LENGTH, seed=1)), (random(1, LENGTH, seed=2),) * 2
    labels = tensors((np.array([1]), np.array([2])))
    short = [tuple(one[:, :4] for one in value) for value in (output, teacher)]
    mask = paddle.to_tensor(real(4))
    assert float(kind.loss(tensors(output), labels, mask)) == pytest.approx(float(kind.loss(tensors(short[0]), labels)))
    for temperature in (1.0, 3.0):
        found = kind.distill(tensors(output), tensors(teacher), labels, mask, temperature)
        expected = kind.distill(tensors(short[0]), tensors(short[1]), labels, None, temperature)
        assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_labels_out_of_reach_say_nothing() -> None:
    kind = QuestionAnswering()
    output = tensors((random(2, LENGTH), random(2, LENGTH, seed=1)))
    first = tuple(one[:1] for one in output)
    only = float(kind.loss(first, tensors((np.array([1]), np.array([2])))))
    for place in (IGNORED, -1, LENGTH, 10 * LENGTH):
        labels = tensors((np.array([1, place]), np.array([2, place])))
        assert float(kind.loss(output, labels)) == pytest.approx(only)


def test_rows_are_classified_and_numbers_predicted() -> None:
    logits, labels = random(8, CLASSES), np.arange(8) % CLASSES
    kind = SequenceClassification(["accuracy"])
    found = kind.loss(paddle.to_tensor(logits), paddle.to_tensor(labels))
    assert float(found) == pytest.approx(-log_softmax(logits, -1)[np.arange(8), labels].mean(), rel=1e-5)
    assert kind.metrics(logits, labels) == {"accuracy": (logits.argmax(-1) == labels).mean()}
    ignored = np.where(np.arange(8) < 5, labels, IGNORED)
    teacher = paddle.to_tensor(random(8, CLASSES, seed=1))
    some = kind.distill(paddle.to_tensor(logits), teacher, paddle.to_tensor(ignored))
    assert float(some) == pytest.approx(float(kind.distill(paddle.to_tensor(logits[:5]), teacher[:5])), rel=1e-5)
    numbers, wanted = random(8, 1), random(8, seed=1)
    kind = Regression()
    loss = ((numbers[:, 0] - wanted) ** 2).mean()
    assert float(kind.loss(paddle.to_tensor(numbers), paddle.to_tensor(wanted))) == pytest.approx(loss, rel=1e-5)
    assert float(kind.distill(paddle.to_tensor(numbers), paddle.to_tensor(numbers + 2))) == pytest.approx(4, rel=1e-5)
    assert kind.metrics(2 * wanted[:, None], wanted)["pearson"] == pytest.approx(1)


def test_entities_are_scored_as_wholes_and_special_tokens_not_at_all() -> None:
    labels = np.array([[IGNORED, 1, 2, 0, IGNORED], [IGNORED, 0, 3, IGNORED, IGNORED]])
    said = np.array([[1, 1, 2, 0, 3], [3, 0, 1, 1, 1]])  # the city is right, the day is taken for a city
    logits = np.eye(CLASSES)[said]
    found = TokenClassification(TAGS).metrics(logits, labels)
    assert found == {"accuracy": 0.8, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert TokenClassification().metrics(logits, labels) == {"accuracy": 0.8}


def test_spans_of_answers_are_scored_by_place() -> None:
    start, end = np.full((3, LENGTH), -5.0), np.full((3, LENGTH), -5.0)
    for row, (first, last) in enumerate([(1, 2), (1, 4), (0, 0)]):
        start[row, first] = end[row, last] = 5
    end[0, 0] = 9  # before the start, so no answer ends there
    labels = np.array([1, 3, IGNORED]), np.array([2, 4, IGNORED])
    found = QuestionAnswering().metrics((start, end), labels)
    assert found == {"exact": 0.5, "f1": pytest.approx((1 + 2 * 2 / 6) / 2)}


def test_answers_are_scored_by_text_with_squads_own_metric() -> None:
    context = "Rome lies on the Tiber"
    offsets = [(0, 4), (5, 9), (10, 12), (13, 16), (17, 22)]
    examples = [{"id": "a", "context": context, "answers": {"text": ["Tiber"], "answer_start": [17]}}]
    features = [{"example_id": "a", "offset_mapping": [None, *offsets]}]
    start, end = np.zeros((1, 6)), np.zeros((1, 6))
    start[0, 4] = end[0, 5] = 9  # "the Tiber", which is the same without its article
    start[0, 0] = 20  # no token of the context

    class Prediction:
        predictions = (start, end)

    assert squad_metrics(examples, features)(Prediction()) == {"exact": 1.0, "f1": 1.0}
    start[0, 3] = 12
    found = squad_metrics(examples, features)(Prediction())
    assert (found["exact"], found["f1"]) == (0.0, pytest.approx(2 / 3))


def test_spans_are_scored_by_probability() -> None:
    starts, ends = np.zeros((2, LENGTH)), np.zeros((2, LENGTH))
    starts[0, 1] = ends[0, 2] = starts[1, 3] = ends[1, 3] = 0.9
    labels = np.zeros((2, LENGTH)), np.zeros((2, LENGTH))
    labels[0][0, 1] = labels[1][0, 2] = labels[0][1, 0] = labels[1][1, 1] = 1
    assert SpanScoring().metrics((starts, ends), labels) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert SpanScoring(limit=0.95).metrics((starts, ends), labels)["recall"] == 0


@pytest.mark.parametrize(
    ("inputs", "pad", "expected"),
    [
        ({"input_ids": [[3, 4, 0]]}, 0, [[True, True, False]]),
        ({"input_ids": [[3, 4, 1]]}, 1, [[True, True, False]]),
        ({"input_ids": [[3, 4, 0]], "attention_mask": [[1, 1, 1]]}, 0, [[True, True, True]]),
        ({"attention_mask": [[1.0, 0.0, 0.0]]}, None, [[True, False, False]]),
        ({"attention_mask": [[0.0, 0.0, -1e4]]}, None, [[True, True, False]]),
        ({"input_ids": [[3, 4, 0]], "attention_mask": [[[[0.0]]]]}, 0, [[True, True, False]]),
        ({"input_ids": [[3, 4, 0]]}, None, None),
        ({"pixels": [[0.5]]}, 0, None),
    ],
)
def test_padding_is_read_off_the_mask_or_the_ids(inputs: dict[str, Any], pad: int | None, expected: Any) -> None:
    found = padding_mask({name: paddle.to_tensor(value) for name, value in inputs.items()}, pad)
    assert (None if found is None else found.numpy().tolist()) == expected


def test_answers_are_found_in_whatever_a_model_returns() -> None:
    kind, pair = SequenceClassification(), QuestionAnswering()
    one, two = paddle.ones([1, 2]), paddle.zeros([1, 2])
    for output in (one, (one, two), [one], {"loss": two, "logits": one}):
        assert kind.answer(output) is one
    assert pair.answer((one, two, [one])) == (one, two)
    with pytest.raises(ConfigError, match="question answering: the model returned a Tensor; 2 tensors are needed"):
        pair.answer(one)
    with pytest.raises(ConfigError, match=r"student returns .* the teacher"):
        kind.distill(one, paddle.ones([1, 3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequenceClassification(["acuracy"]), r"metric 'acuracy' is not one of .*mean 'accuracy'"),
        (lambda: Regression([]), r"metric_names \[\] is not a list"),
        (lambda: TokenClassification(["yes", "no"]), r"none is the tag of an entity"),
    ],
)
def test_wrong_names_are_refused(make: Callable[[], TaskKind], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_pipelines_tasks_are_of_these_kinds() -> None:
    assert isinstance(TASKS["sts-b"].kind, Regression)
    assert isinstance(TASKS["mrpc"].kind, SequenceClassification)
    labels = np.arange(6) % 2
    assert set(TASKS["mrpc"].score(random(6, 2), labels)) == {"f1", "accuracy"}
