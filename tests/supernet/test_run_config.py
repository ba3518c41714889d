from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from models import Tagger, bert, ofa_of
from ofa_slim import OFA, Convert, DistillConfig, RunConfig, supernet
from ofa_slim.errors import ConfigError, IllegalSubnetError

Q, FFN = "bert.encoder.layers.{}.self_attn.q_proj", "bert.encoder.layers.{}.linear1"


def elastic(run: RunConfig, layers: int = 2) -> dict[str, tuple[int, ...]]:
    space = ofa_of(bert(layers=layers), run_config=run).search_space
    return {axis.name: axis.choices for axis in space.axes if axis.elastic}


def test_the_published_order_of_arguments() -> None:
    names = [field.name for field in dataclasses.fields(RunConfig)]
    assert names == [
        "train_batch_size",
        "n_epochs",
        "init_learning_rate",
        "total_images",
        "elastic_depth",
        "dynamic_batch_size",
        "skip_layers",
        "same_search_space",
        "ofa_layers",
    ]
    # What is not published comes behind it.
    assert [field.name for field in dataclasses.fields(DistillConfig)][:6] == [
        "lambda_distill",
        "teacher_model",
        "mapping_layers",
        "teacher_model_path",
        "distill_fn",
        "mapping_op",
    ]
    assert all(getattr(RunConfig(), field.name) is None for field in dataclasses.fields(RunConfig))
    assert all(getattr(DistillConfig(), field.name) is None for field in dataclasses.fields(DistillConfig)[:6])


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().n_epochs = [[1]]  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        DistillConfig().lambda_distill = 1.0  # type: ignore[misc]


def test_skipped_layers_stay_full_with_those_tied_to_them() -> None:
    found = elastic(RunConfig(skip_layers=["bert.encoder.layers.0.self_attn.v_proj", FFN.format(1), "classifier"]))
    assert found == {"encoder.0.ffn": (6, 12, 24), "encoder.1.heads": (1, 2, 4)}


def test_only_the_layers_of_ofa_layers_are_elastic() -> None:
    found = elastic(
        RunConfig(ofa_layers={FFN.format(0): {"expand_ratio": [0.5, 1.0]}, Q.format(1): {"channel": [4, 12]}})
    )
    assert found == {"encoder.0.ffn": (12, 24), "encoder.1.heads": (1, 3)}


def test_layers_of_one_search_space_always_get_one_width() -> None:
    ofa = ofa_of(bert(layers=3), run_config=RunConfig(same_search_space=[[FFN.format(i) for i in range(3)]]))
    assert [axis.name for axis in ofa.search_space.axes if "ffn" in axis.name] == ["encoder.0.ffn"]
    config = ofa.subnet_config({FFN.format(2): {"expand_ratio": 0.5}})
    plain = ofa.export(config=config)
    assert [block.linear1.weight.shape[1] for block in plain.bert.encoder.layers] == [12, 12, 12]


def test_elastic_depth_gives_the_layer_counts_that_are_sampled() -> None:
    assert elastic(RunConfig(elastic_depth=(2, 4)), layers=4)["encoder.depth"] == (2, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_batch_size": 0}, "train_batch_size is 0, not a whole number"),
        ({"total_images": 1.5}, "total_images is 1.5"),
        ({"elastic_depth": 3}, "elastic_depth: 3 is not a list"),
        ({"elastic_depth": ()}, "elastic_depth"),
        ({"elastic_depth": (0,)}, "elastic_depth is 0"),
        ({"n_epochs": [1, 2]}, "n_epochs: 1 is not a list"),
        ({"n_epochs": [[2], [1]]}, "must ascend"),
        ({"dynamic_batch_size": [True]}, "dynamic_batch_size is True"),
        ({"skip_layers": "conv1"}, "skip_layers: 'conv1' is not a list"),
        ({"skip_layers": [1]}, "1 is not the name of a layer"),
        ({"same_search_space": ["a", "b"]}, "same_search_space: 'a' is not a list"),
        ({"ofa_layers": ["a"]}, "is not a dictionary of layer names"),
    ],
)
def test_invalid_values_are_refused_when_made(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"skip_layers": ["bert.encoder.layers.0.linaer1"]},
            r"skip_layers: no layer .*; did you mean '.*linear1'",
        ),
        ({"same_search_space": [["nowhere", "neither"]]}, "same_search_space: no layer is called 'nowhere'"),
        ({"same_search_space": [[FFN.format(0), Q.format(0)]]}, "size 24, 'encoder.0.heads' has 4"),
        ({"ofa_layers": {"classifier": {"expand_ratio": [1.0]}}}, "ofa_layers: .* 'classifier' is fixed"),
        ({"ofa_layers": {FFN.format(0): [0.5]}}, "ofa_layers: .* not a dictionary such as"),
        ({"elastic_depth": (2, 3)}, "elastic_depth: 3 is more than the 2 layers of 'encoder.depth'"),
        ({"n_epochs": [[1], [2]]}, r"n_epochs \[\[1\], \[2\]\] has 2 entries for 1 tasks \(width\)"),
        ({"dynamic_batch_size": [1, 1]}, "dynamic_batch_size .* has 2 entries for 1 tasks"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ofa_of(bert(), run_config=RunConfig(**given))


def test_a_layer_without_choices_in_ofa_layers_stays_whole() -> None:
    run = RunConfig(ofa_layers={FFN.format(0): {"expand_ratio": [0.5, 1.0]}, FFN.format(1): {}, "classifier": {}})
    assert list(elastic(run)) == ["encoder.0.ffn"]
    with pytest.raises(ConfigError, match="ofa_layers: no layer is called 'nobody'"):
        elastic(RunConfig(ofa_layers={"nobody": {}}))


def test_choices_of_ofa_layers_must_be_legal() -> None:
    with pytest.raises(IllegalSubnetError, match="not a whole number"):
        ofa_of(bert(), run_config=RunConfig(ofa_layers={Q.format(0): {"expand_ratio": [0.3]}}))


def test_the_order_of_tasks_is_checked() -> None:
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(Tagger())
    with pytest.raises(ConfigError, match=r"elastic_order 'widht' is not one of .*; did you mean 'width'"):
        OFA(model, elastic_order=["widht"])
    with pytest.raises(ConfigError, match=r"'depth': nothing in this model .*RunConfig\(elastic_depth"):
        OFA(model, elastic_order=["width", "depth"])
    with pytest.raises(ConfigError, match="'kernel_size': nothing in this model"):
        OFA(model, elastic_order=["kernel_size"])
    with pytest.raises(ConfigError, match="names no task"):
        OFA(model, elastic_order=[])
