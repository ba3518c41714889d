"""Scores of every traced width, and a supernet in their order."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

import naming_models as models
from ofa_slim import OFA, Convert, supernet
from ofa_slim.errors import ImportanceError
from ofa_slim.importance import compute_width_importance, reorder_widths

KINDS = [models.Vit, models.Swin, models.Pvt, models.SeNet, models.ShuffleNet, models.Res2Net, models.MixNet]


def made(kind: type[nn.Layer]) -> tuple[OFA, paddle.Tensor, list[tuple[paddle.Tensor, paddle.Tensor]]]:
    paddle.seed(0)
    model, x = kind(), paddle.randn([8, 3, 8, 8])
    ofa = OFA(Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(model), example_inputs=x)
    ofa.eval()
    return ofa, x, [(x, paddle.randint(0, 3, [8]))]


def whole(ofa: OFA, x: paddle.Tensor) -> np.ndarray:
    with ofa.subnet(ofa.search_space.largest()), paddle.no_grad():
        return ofa(x).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_model_stays_and_the_most_important_units_come_first(kind: type[nn.Layer]) -> None:
    ofa, x, loader = made(kind)
    before, scores = whole(ofa, x), compute_width_importance(ofa, loader)
    assert {name: len(score) for name, score in scores.items()} == {
        axis.name: axis.size for axis in ofa.search_space.axes if axis.elastic
    }
    reorder_widths(ofa, scores)
    np.testing.assert_allclose(whole(ofa, x), before, atol=1e-5)
    for name, score in compute_width_importance(ofa, loader).items():
        np.testing.assert_allclose(score, np.sort(scores[name])[::-1], rtol=1e-3, atol=1e-6)


class TwiceOver(nn.Layer):
    """A layer reads one width twice, the second time each channel as two."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.read = nn.Linear(192, 4), nn.Linear(12, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.made(x.flatten(1))
        return self.read(paddle.concat([x, x.repeat_interleave(2, axis=1)], axis=1))


def test_an_axis_that_a_layer_reads_in_two_ways_is_reordered_in_both() -> None:
    ofa, x, _ = made(TwiceOver)
    before = whole(ofa, x)
    reorder_widths(ofa, {"made": [1.0, 4.0, 2.0, 3.0]})
    np.testing.assert_allclose(whole(ofa, x), before, atol=1e-5)


def test_a_score_is_the_gradient_to_a_mask() -> None:
    ofa, x, loader = made(models.SeNet)
    score = compute_width_importance(ofa, loader)["excitations.0.squeeze"]
    mask = paddle.ones([1, 8])
    mask.stop_gradient = False
    hook = ofa.model.excitations[0].squeeze.register_forward_post_hook(lambda layer, given, output: output * mask)
    with ofa.subnet(ofa.search_space.largest()):
        nn.CrossEntropyLoss()(ofa(x), loader[0][1]).backward()
    hook.remove()
    np.testing.assert_allclose(score, mask.grad.abs().reshape([-1]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"steem": [1.0] * 32}, "no elastic width 'steem'.*'stem'"),
        ({"stem": [1.0] * 31}, r"stem: scores of shape \[31\], expected \[32\]"),
        ({"convs.0": list(range(32)), "stem": [float("nan")] * 32}, "expected .* finite"),
    ],
)
def test_scores_that_do_not_fit_change_nothing(scores: dict[str, list[float]], said: str) -> None:
    ofa, _, _ = made(models.SeNet)
    before = ofa.model.convs[0].weight.numpy()
    with pytest.raises(ImportanceError, match=said):
        reorder_widths(ofa, scores)
    assert (ofa.model.convs[0].weight.numpy() == before).all()


def test_no_elastic_width_is_said() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model), example_inputs=paddle.randn([2, 4]))
    with pytest.raises(ImportanceError, match="no elastic width"):
        compute_width_importance(ofa, [(paddle.randn([2, 4]), paddle.randint(0, 3, [2]))])
