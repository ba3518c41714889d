"""Paddle's own vision models as supernets; `benchmarks/vision_models.py` tries more sub-networks of each."""

from __future__ import annotations

import pytest

from vision_models import NAMES, check

# Their layers are those of another model here, only wider; `benchmarks/vision_models.py` has them.
WIDER = {"wide_resnet50_2"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WIDER])
def test_sub_networks_of_vision_models_are_what_their_configs_say(name: str) -> None:
    outcome = check(name, configs=1)
    assert any(axis.elastic for axis in outcome.space.axes)


def test_a_resnet_has_one_axis_per_bottleneck_and_per_residual_sum() -> None:
    space = check("resnet50", configs=0).space
    widths = [axis.name for axis in space.axes if axis.task == "width" and axis.elastic]
    assert len(widths) == 37
    assert widths[:4] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"]
