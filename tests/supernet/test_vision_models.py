"""Paddle's own vision models as supernets; `benchmarks/vision_models.py` tries more sub-networks of each."""

from __future__ import annotations

import pytest

from vision_models import NAMES, check


@pytest.mark.parametrize("name", NAMES)
def test_sub_networks_of_vision_models_are_what_their_configs_say(name: str) -> None:
    outcome = check(name, configs=1)
    assert any(axis.elastic for axis in outcome.space.axes)


def test_a_resnet_has_one_axis_per_bottleneck_and_per_residual_sum() -> None:
    space = check("resnet50", configs=0).space
    widths = [axis.name for axis in space.axes if axis.task == "width" and axis.elastic]
    assert len(widths) == 37
    assert widths[:4] == ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"]
