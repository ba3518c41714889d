from __future__ import annotations

import numpy as np
import pytest

from models import bert, ofa_of
from ofa_slim import OFA, RunConfig, dynabert_config
from ofa_slim.errors import ConfigError, IllegalSubnetError
from ofa_slim.train.strategies import Sampled, Sandwich, Uniform


@pytest.fixture(scope="module")
def ofa() -> OFA:
    return ofa_of(bert(layers=4), run_config=RunConfig(elastic_depth=[2, 3, 4]))


def test_uniform_gives_every_width_at_every_depth_each_time(ofa: OFA) -> None:
    strategy = Uniform(ofa.search_space, [1.0, 0.5], [1.0, 0.5])
    expected = [ofa.subnet_config(dynabert_config(ofa, w, d)) for d in (1.0, 0.5) for w in (1.0, 0.5)]
    rng = np.random.default_rng(0)
    assert strategy(rng) == expected
    assert strategy(rng) == expected
    with pytest.raises(IllegalSubnetError, match=r"expand_ratio 0\.3"):
        Uniform(ofa.search_space, [0.3])


def test_the_sandwich_has_both_ends_and_random_ones_between(ofa: OFA) -> None:
    strategy, rng = Sandwich(ofa.search_space, 3), np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        largest, *between, smallest = strategy(rng)
        assert largest == ofa.search_space.largest()
        assert smallest == ofa.search_space.smallest()
        assert len(between) == 3
        seen.update(between)
    # Per layer, not one width for all.
    assert any(len({size for name, size in config.items() if name.endswith("heads")}) > 1 for config in seen)
    assert len({config["encoder.depth"] for config in seen}) == 3
    assert len(Sandwich(ofa.search_space, 0)(rng)) == 2


def test_the_same_generator_state_gives_the_same_sub_networks(ofa: OFA) -> None:
    for strategy in (Sampled(ofa.search_space, 2), Sandwich(ofa.search_space)):
        first, second = ([strategy(rng) for _ in range(5)] for rng in (np.random.default_rng(3) for _ in range(2)))
        assert first == second
        assert first[0] != first[1]


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_an_invalid_count_is_refused(ofa: OFA, count: int) -> None:
    with pytest.raises(ConfigError, match="count"):
        Sampled(ofa.search_space, count)


@pytest.mark.parametrize("count", [-1, None, 0.5])
def test_a_sandwich_with_an_invalid_count_is_refused(ofa: OFA, count: int) -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        Sandwich(ofa.search_space, count)
