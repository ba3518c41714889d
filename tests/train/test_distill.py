from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from safetensors.paddle import save_file

from models import Tagger, batch, bert, difference, ofa_of
from ofa_slim import OFA, Convert, DistillConfig, RunConfig, dynabert_config, supernet
from ofa_slim.errors import ConfigError, DistillError

LAYER = "bert.encoder.layers.{}"


def outputs(model: nn.Layer, names: list[str], inputs: Any) -> list[paddle.Tensor]:
    """The outputs of named layers, taken with hooks of the test's own."""
    found: dict[str, paddle.Tensor] = {}
    hooks = [
        layer.register_forward_post_hook(lambda layer, given, output, name=name: found.update({name: output}))
        for name, layer in model.named_sublayers()
        if name in names
    ]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in names if name in found]


def test_the_loss_is_the_weighted_sum_over_the_mapped_layers() -> None:
    model, inputs = bert(), batch()
    teacher = copy.deepcopy(model)
    names = ["bert.embeddings", LAYER.format(0), LAYER.format(1)]
    for weight in (None, 0.0, 2.5):
        ofa = ofa_of(copy.deepcopy(model), teacher, mapping_layers=names, lambda_distill=weight)
        with ofa.subnet(dynabert_config(ofa, 0.5)):
            ofa(*inputs)
            loss = ofa.calc_distill_loss()
            pairs = zip(outputs(ofa.model, names, inputs), outputs(teacher, names, inputs), strict=True)
            expected = (1.0 if weight is None else weight) * sum(F.mse_loss(one, other) for one, other in pairs)
        assert loss.shape == []
        assert abs(float(loss - expected)) < 1e-6
    assert float(expected) > 0


def test_the_loss_reaches_the_student_and_not_the_teacher() -> None:
    model = bert()
    teacher = copy.deepcopy(model)
    ofa = ofa_of(model, teacher, mapping_layers=[LAYER.format(1)])
    ofa.set_net_config(dynabert_config(ofa, 0.5))
    ofa(*batch())
    ofa.calc_distill_loss().backward()
    assert float(model.bert.encoder.layers[0].linear1.weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_no_hook_stays_on_either_model() -> None:
    model = bert()
    teacher = copy.deepcopy(model)
    ofa = ofa_of(model, teacher, mapping_layers=["bert.embeddings"])
    ofa(*batch())
    recorded = ofa.calc_distill_loss()
    ofa.model(paddle.ones([1, 2], dtype="int64"))
    assert difference(ofa.calc_distill_loss(), recorded) == 0


def test_layers_that_the_depth_dropped_are_left_out() -> None:
    model, inputs = bert(layers=4), batch()
    teacher = copy.deepcopy(model)
    names = [LAYER.format(i) for i in range(4)]
    ofa = ofa_of(model, teacher, mapping_layers=names, run_config=RunConfig(elastic_depth=(2, 4)))
    with ofa.subnet({"depth": 2}):
        ofa(*inputs)
        kept = [names[1], names[3]]
        expected = sum(
            F.mse_loss(one, other)
            for one, other in zip(outputs(ofa.model, kept, inputs), outputs(teacher, kept, inputs), strict=True)
        )
        assert abs(float(ofa.calc_distill_loss() - expected)) < 1e-6


def test_mappings_by_dictionary_full_name_and_trailing_fn() -> None:
    model, inputs = bert(layers=2), batch()
    teacher = bert(layers=4)
    name = model.bert.encoder.layers[1].full_name()
    ofa = ofa_of(model, teacher, mapping_layers={f"{LAYER.format(0)}.fn": LAYER.format(1), name: LAYER.format(3)})
    with ofa.subnet(ofa.search_space.largest()):
        ofa(*inputs)
        mine = outputs(ofa.model, [LAYER.format(0), LAYER.format(1)], inputs)
        its = outputs(teacher, [LAYER.format(1), LAYER.format(3)], inputs)
        expected = sum(F.mse_loss(one, other) for one, other in zip(mine, its, strict=True))
        assert abs(float(ofa.calc_distill_loss() - expected)) < 1e-6


def test_a_distance_of_the_callers_own() -> None:
    model = bert()
    seen = []

    def distance(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
        seen.append((student.stop_gradient, teacher.stop_gradient))
        return (student - teacher).abs().sum()

    ofa = ofa_of(model, copy.deepcopy(model), mapping_layers=["bert.embeddings"], distill_fn=distance)
    ofa(*batch())
    assert float(ofa.calc_distill_loss()) == 0
    assert seen == [(False, True)]


def test_projections_map_the_students_current_width_to_the_teachers() -> None:
    name = LAYER.format(0) + ".linear1"
    ofa = ofa_of(bert(head_dim=2, ffn=12), bert(head_dim=4), mapping_layers=[name], mapping_op="linear")
    assert [parameter.shape for parameter in ofa.netAs_param] == [[12, 24], [24]]
    for width in (1.0, 0.25):
        ofa.set_net_config(dynabert_config(ofa, width))
        ofa(*batch())
        ofa.calc_distill_loss().backward()
    own = {id(parameter) for parameter in [*ofa.parameters(), *ofa.state_dict().values()]}
    assert not own & {id(parameter) for parameter in ofa.netAs_param}
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in ofa.netAs_param)


@pytest.mark.parametrize("op", ["conv", "conv2d"])
def test_a_convolution_is_built_at_construction(op: str) -> None:
    ofa = ofa_of(bert(head_dim=2), bert(head_dim=4), mapping_layers=[LAYER.format(0)], mapping_op=op)
    assert [parameter.shape for parameter in ofa.netAs_param] == [[8, 16], [16]]
    assert all(layer.over_channels for layer in ofa._distiller.projections.values())  # type: ignore[union-attr]


def test_a_convolution_maps_dimension_1() -> None:
    from ofa_slim.train.distiller import Projection

    layer = Projection(6, 5, over_channels=True)
    x = paddle.randn([2, 4, 3, 3])
    kernel = layer.weight[:4].transpose([1, 0]).reshape([5, 4, 1, 1])
    assert difference(layer(x), F.conv2d(x, kernel, layer.bias)) < 1e-5


def test_unequal_widths_without_a_projection_are_named() -> None:
    ofa = ofa_of(bert(head_dim=2), bert(head_dim=4), mapping_layers=[LAYER.format(0)])
    ofa(*batch())
    with pytest.raises(DistillError, match=r"'bert.encoder.layers.0': .* \[3, 7, 8\] .* \[3, 7, 16\] .* mapping_op"):
        ofa.calc_distill_loss()


def test_a_loss_without_layers_or_before_a_forward_is_named() -> None:
    model = bert()
    with pytest.raises(DistillError, match="needs DistillConfig\\(mapping_layers"):
        ofa_of(model, copy.deepcopy(model)).calc_distill_loss()
    with pytest.raises(DistillError, match="before any forward"):
        ofa_of(model, bert(), mapping_layers=["bert.embeddings"]).calc_distill_loss()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lambda_distill": -1}, "lambda_distill -1"),
        ({"lambda_distill": "1"}, "lambda_distill '1'"),
        ({"teacher_model": "bert"}, "teacher_model is 'bert', neither"),
        ({"mapping_op": "lineer"}, "mapping_op 'lineer' is not one of linear, conv, conv2d"),
        ({"distill_fn": 3}, "distill_fn 3 cannot be called"),
        ({"mapping_layers": "bert"}, "mapping_layers 'bert' is not a list"),
        ({"mapping_layers": ["bert"]}, "mapping_layers was given without a teacher_model"),
        (
            {"teacher_model_path": "nowhere/teacher"},
            "none of the files nowhere/teacher, .*nowhere/teacher.pdparams",
        ),
    ],
)
def test_invalid_values_are_refused_when_made(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DistillConfig(**given)


def test_layers_that_a_model_does_not_have_are_named() -> None:
    model = Convert(supernet(expand_ratio=[1.0])).convert(bert())
    for mapping, message in (
        (
            ["bert.embedings"],
            "in the student, no layer is called 'bert.embedings'; did you mean 'bert.embeddings'",
        ),
        ({"bert.embeddings": "body"}, "in the teacher, no layer is called 'body'"),
    ):
        with pytest.raises(ConfigError, match=message):
            OFA(model, distill_config=DistillConfig(teacher_model=bert(), mapping_layers=mapping))
    with pytest.raises(ConfigError, match="teacher_model is the model itself"):
        OFA(model, distill_config=DistillConfig(teacher_model=model))


@pytest.mark.parametrize("form", ["state dict", "safetensors", "directory", "pdparams", "no suffix"])
def test_a_teachers_weights_come_from_a_path_or_a_state_dict(form: str, tmp_path: Path) -> None:
    origin, inputs = bert(), batch()
    state = origin.state_dict()
    source: Any = state
    if form in ("safetensors", "directory"):
        source = tmp_path / "model.safetensors"
        save_file(state, str(source))
        source = tmp_path if form == "directory" else source
    elif form in ("pdparams", "no suffix"):
        paddle.save(state, str(tmp_path / "teacher.pdparams"))
        source = str(tmp_path / ("teacher.pdparams" if form == "pdparams" else "teacher"))
    pickled = form in ("pdparams", "no suffix")
    ofa = ofa_of(bert(), bert(), teacher_model_path=source, allow_pickle=pickled)
    assert difference(ofa(*inputs)[1], origin(*inputs)) == 0
    if pickled:
        with pytest.raises(ConfigError, match=r"teacher\.pdparams is a pickle, and reading a pickle runs"):
            DistillConfig(teacher_model=bert(), teacher_model_path=source)


def test_weights_that_do_not_cover_the_teacher_are_refused() -> None:
    state = bert().state_dict()
    del state["classifier.bias"]
    state["classifier.weight"] = paddle.zeros([2, 2])
    with pytest.raises(ConfigError, match=r"missing classifier.bias; of another shape classifier.weight"):
        ofa_of(bert(), bert(), teacher_model_path=state)


def test_a_hand_written_model_distils_too() -> None:
    model = Tagger()
    ofa = ofa_of(model, copy.deepcopy(model), mapping_layers=["body", "embed"])
    student, teacher = ofa(batch()[0])
    assert student.shape == teacher.shape
    assert float(ofa.calc_distill_loss()) >= 0
