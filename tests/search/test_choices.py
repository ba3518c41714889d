"""What a search chooses from: numbers for sizes, shares, multiples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_slim.errors import IllegalSubnetError
from ofa_slim.search.choices import Choices, rounded
from search_runs import encoder

SPACE = encoder().search_space


@given(seed=st.integers(0, 1000))
def test_numbers_and_configs_are_two_ways_to_say_the_same(seed: int) -> None:
    choices = Choices(SPACE)
    config = choices.config(choices.sample(np.random.default_rng(seed)))
    assert choices.config(choices.numbers(config)) == config
    assert all(config[axis.name] in axis.choices for axis in SPACE.axes)


def test_configs_that_run_the_same_are_the_same() -> None:
    choices = Choices(SPACE)
    numbers = {axis.name: 1 for axis in choices.axes} | {"encoder.depth": 0}
    other = {**numbers, "encoder.1.heads": 2, "encoder.1.ffn": 0}  # of three layers, two keep the first and the last
    assert choices.config(numbers) == choices.config(other)
    assert choices.config(numbers) != choices.config({**numbers, "encoder.0.heads": 2})


def test_a_size_that_is_not_a_choice_is_refused() -> None:
    with pytest.raises(IllegalSubnetError, match=r"'encoder.0.ffn': size 7 is not one of"):
        Choices(SPACE).numbers(SPACE.complete({"encoder.0.ffn": 7}))


def test_uniform_configs_have_one_share() -> None:
    shares = [
        {
            round(config[axis.name] / axis.full, 6)
            for axis in SPACE.axes
            if axis.task == "width" and ".1." not in axis.name
        }
        for config in Choices(SPACE).uniform()
    ]
    assert all(len(share) == 1 for share in shares)
    assert len(shares) == 4 * 2
    assert next(Choices(SPACE).uniform()) == SPACE.largest()


@pytest.mark.parametrize("multiple", [1, 4, 8, 100])
def test_widths_can_be_multiples(multiple: int) -> None:
    for axis in rounded(SPACE, multiple).axes:
        if axis.task == "width" and multiple <= axis.size * axis.slots[0].unit:
            assert all(size * axis.slots[0].unit % multiple == 0 or size == axis.size for size in axis.choices)
        else:
            assert axis.choices == SPACE[axis.name].choices
