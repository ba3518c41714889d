"""The published per-layer dictionaries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import Tagger, batch, bert, configs, ofa_of
from ofa_slim import OFA, RunConfig, SubnetConfig, dynabert_config
from ofa_slim.errors import ConfigError, IllegalSubnetError

OFA_3 = ofa_of(bert(layers=3), run_config=RunConfig(elastic_depth=(1, 2, 3)))
BLOCK = "bert.encoder.layers.0"


@given(data=st.data())
def test_dictionaries_and_configs_translate_both_ways(data: st.DataObject) -> None:
    config = data.draw(configs(OFA_3.search_space))
    with OFA_3.subnet(config):
        OFA_3(*batch())
        dictionary = OFA_3.current_config
    assert dictionary == OFA_3.get_current_config
    assert dictionary is not None
    assert OFA_3.subnet_config(dictionary) == config


def test_what_is_left_out_runs_in_full() -> None:
    full = OFA_3.search_space.largest()
    assert OFA_3.subnet_config({}) == full
    assert OFA_3.subnet_config({f"{BLOCK}.linear1": None, f"{BLOCK}.linear2": {}}) == full
    assert OFA_3.subnet_config({f"{BLOCK}.linear1": {"expand_ratio": None}}) == full
    some = OFA_3.subnet_config({f"{BLOCK}.linear1": {"expand_ratio": 0.5}})
    assert some == SubnetConfig({**full, "encoder.0.ffn": 12})


def test_one_layer_of_an_axis_speaks_for_the_layers_tied_to_it() -> None:
    config = OFA_3.subnet_config({f"{BLOCK}.self_attn.k_proj": {"channel": 8}})
    assert config["encoder.0.heads"] == 2


def test_layers_may_be_named_by_full_name() -> None:
    name = OFA_3.model.bert.encoder.layers[0].linear1.full_name()
    assert OFA_3.subnet_config({name: {"expand_ratio": 0.25}})["encoder.0.ffn"] == 6


def test_any_legal_width_is_taken_listed_or_not() -> None:
    config = OFA_3.subnet_config(
        {f"{BLOCK}.linear1": {"channel": 7}, f"{BLOCK}.self_attn.q_proj": {"expand_ratio": 0.75}}
    )
    assert (config["encoder.0.ffn"], config["encoder.0.heads"]) == (7, 3)


def test_a_fixed_layer_may_be_named_at_its_full_width() -> None:
    OFA_3.subnet_config({"classifier": {"expand_ratio": 1.0}, f"{BLOCK}.linear2": {"channel": 16}})


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [
        ({f"{BLOCK}.linaer1": {}}, r"no layer is called '.*linaer1'; did you mean '.*linear1'\?"),
        (
            {f"{BLOCK}.linear1": {"expand_ration": 1}},
            r"key 'expand_ration' is not one of .*; did you mean 'expand_ratio'",
        ),
        ({f"{BLOCK}.linear1": 0.5}, "0.5 is not a dictionary"),
        ({f"{BLOCK}.linear1": {"expand_ratio": 1.5}}, "1.5 is not a number of at least 0 and at most 1"),
        ({f"{BLOCK}.linear1": {"channel": 25}}, "channel 25 is not a whole number between 0 and 24"),
        ({f"{BLOCK}.linear1": {"channel": 6, "expand_ratio": 0.5}}, "give different widths"),
        ({f"{BLOCK}.linear2": {"expand_ratio": 0.5}}, "its output width is fixed at 16"),
        ({f"{BLOCK}.self_attn.q_proj": {"expand_ratio": 0.3}}, "not a whole number"),
        ({"depth": 0}, "size 0 is not a whole number between 1 and 3"),
        ({"depth": 4}, "size 4"),
        ({"depth": 1.0}, "size 1.0"),
        (
            {f"{BLOCK}.self_attn.q_proj": {"expand_ratio": 0.5}, f"{BLOCK}.self_attn.v_proj": {"channel": 4}},
            "share axis 'encoder.0.heads' but have sizes 2 and 1 of 4",
        ),
    ],
)
def test_mistakes_are_named_and_change_nothing(dictionary: dict[str, object], message: str) -> None:
    before = OFA_3.net_config
    with pytest.raises(IllegalSubnetError, match=message):
        OFA_3.set_net_config(dictionary)
    assert OFA_3.net_config == before


def test_a_config_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not a float"):
        OFA_3.set_net_config(0.5)  # type: ignore[arg-type]
    with pytest.raises(IllegalSubnetError, match=r"no axis 'encoder.9.ffn'"):
        OFA_3.set_net_config(SubnetConfig({"encoder.9.ffn": 3}))


def test_dynabert_config_is_fresh_and_mutable() -> None:
    one = dynabert_config(OFA_3, 0.5, 2 / 3)
    assert one["depth"] == 2
    assert one[f"{BLOCK}.linear1"] == {"expand_ratio": 0.5}
    one[f"{BLOCK}.linear1"]["expand_ratio"] = 0.25
    one["depth"] = 1
    assert dynabert_config(OFA_3, 0.5, 2 / 3)[f"{BLOCK}.linear1"] == {"expand_ratio": 0.5}
    config = OFA_3.subnet_config(one)
    assert (config["encoder.0.ffn"], config["encoder.1.ffn"], config["encoder.depth"]) == (6, 12, 1)


def test_dynabert_config_sets_depths_that_are_not_among_the_choices() -> None:
    ofa = ofa_of(bert(layers=4))
    assert ofa.subnet_config(dynabert_config(ofa, 1.0, 0.75))["encoder.depth"] == 3


@pytest.mark.parametrize(("width", "depth"), [(0.0, 1.0), (1.5, 1.0), (0.3, 1.0), (1.0, 0.0), (1.0, 2.0)])
def test_dynabert_config_refuses_what_the_model_does_not_have(width: float, depth: float) -> None:
    with pytest.raises(IllegalSubnetError):
        dynabert_config(OFA_3, width, depth)


def test_an_ofa_lists_its_elastic_layers_and_one_entry_per_axis() -> None:
    ofa = ofa_of(Tagger(layers=1))
    ratios = {"expand_ratio": (0.25, 0.5, 1.0)}
    assert ofa.ofa_layers == {"body.layers.0.self_attn.q_proj": ratios, "body.layers.0.linear1": ratios}
    assert set(ofa.layers) == {
        f"body.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "linear1")
    }
    assert isinstance(ofa, OFA)
