from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from families import FAMILIES, each_family, inputs
from models import bert, ofa_of
from ofa_slim import OFA, AttentionRelations, Convert, DistillConfig, RunConfig, TeacherCache, dynabert_config, supernet
from ofa_slim.errors import ConfigError, DistillError

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
PAIRS = {"attention": (0, 1), "queries": (0, 0), "keys": (1, 1), "values": (2, 2)}


def ids(rows: int = 3, length: int = 7) -> paddle.Tensor:
    """Token ids with padding of its own length in each row but the first."""
    found = np.random.default_rng(0).integers(1, 50, (rows, length))
    for row in range(rows):
        found[row, length - 2 * row :] = 0 if row else found[row, length:]
    return paddle.to_tensor(found)


def projected(model: Any, block: int, batch: paddle.Tensor) -> list[np.ndarray]:
    """Outputs of the query, key and value projections of a block, taken with hooks of the test's own."""
    attention = model.bert.encoder.layers[block].self_attn
    found: dict[str, np.ndarray] = {}
    hooks = [
        getattr(attention, name).register_forward_post_hook(
            lambda layer, given, output, name=name: found.update({name: output.numpy().astype(np.float64)})
        )
        for name in PROJECTIONS
    ]
    model(batch)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in PROJECTIONS]


def reference(student: list[np.ndarray], teacher: list[np.ndarray], kinds: Any, heads: int, real: np.ndarray) -> float:
    """The loss written out, one pair of positions after the other."""

    def relation(one: np.ndarray, other: np.ndarray, row: int, part: int) -> np.ndarray:
        width = one.shape[-1] // heads
        channels = slice(part * width, (part + 1) * width)
        kept = real[row]
        scores = one[row, kept, channels] @ other[row, kept, channels].T / np.sqrt(width)
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        return chances / chances.sum(-1, keepdims=True)

    whole = 0.0
    for first, second in (PAIRS[kind] for kind in kinds):
        for row in range(len(real)):
            for part in range(heads):
                right = relation(teacher[first], teacher[second], row, part)
                mine = relation(student[first], student[second], row, part)
                whole += float((right * np.log(right / mine)).sum()) / heads
    return whole / real.sum()


@pytest.mark.parametrize("kinds", [("queries", "keys", "values"), ("attention", "values"), ("keys",)])
@pytest.mark.parametrize("heads", [None, 1, 2])
def test_the_loss_is_the_divergence_of_the_teachers_relations(kinds: tuple[str, ...], heads: int | None) -> None:
    student, teacher = bert(layers=3, heads=2, head_dim=4, ffn=12), bert(layers=4, heads=4, head_dim=4)
    relations = AttentionRelations(kinds=kinds, heads=heads, weight=3.0)
    ofa = ofa_of(student, teacher, ratios=(1.0, 0.5), relations=relations, lambda_distill=0.5)
    batch = ids()
    for width in (1.0, 0.5):
        ofa.set_net_config(dynabert_config(ofa, width))
        ofa(batch)
        real = batch.numpy() != 0
        expected = reference(
            projected(ofa.model, 2, batch), projected(teacher, 3, batch), kinds, 4 if heads is None else heads, real
        )
        assert float(ofa.calc_distill_loss()) == pytest.approx(1.5 * expected, rel=1e-4)
        assert expected > 0.01


def test_blocks_are_chosen_and_added_to_mapped_layers() -> None:
    model, batch = bert(layers=3), ids()
    teacher = bert(layers=4)
    name = "bert.embeddings"
    alone = ofa_of(copy.deepcopy(model), teacher, mapping_layers=[name])
    related = ofa_of(copy.deepcopy(model), teacher, relations=AttentionRelations({0: 1, -1: 3}))
    both = ofa_of(copy.deepcopy(model), teacher, mapping_layers=[name], relations=AttentionRelations({0: 1, -1: 3}))
    losses = []
    for ofa in (alone, related, both):
        ofa.set_net_config(dynabert_config(ofa, 0.5))
        ofa(batch)
        losses.append(float(ofa.calc_distill_loss()))
    assert losses[0] + losses[1] == pytest.approx(losses[2], rel=1e-5)
    expected = sum(
        reference(projected(related.model, own, batch), projected(teacher, its, batch), list(PAIRS)[1:], 4,
                  batch.numpy() != 0)
        for own, its in ((0, 1), (2, 3))
    )  # fmt: skip
    assert losses[1] == pytest.approx(expected, rel=1e-4)


def test_what_padding_holds_does_not_count_and_the_same_relations_cost_nothing() -> None:
    model = bert()
    teacher = copy.deepcopy(model)
    ofa = ofa_of(model, teacher, relations=AttentionRelations(kinds=tuple(PAIRS)))
    ofa.set_net_config(dynabert_config(ofa, 1.0))
    ofa(ids())
    assert abs(float(ofa.calc_distill_loss())) < 1e-5
    ofa.set_net_config(dynabert_config(ofa, 0.5))
    losses = []
    for length in (7, 9):
        batch = paddle.nn.functional.pad(ids(), [0, length - 7], value=0) if length > 7 else ids()
        ofa(batch)
        losses.append(float(ofa.calc_distill_loss()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    full = ids()
    ofa(full, attention_mask=paddle.cast(full != 0, "int64").unsqueeze([1, 2]))
    assert float(ofa.calc_distill_loss()) == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_a_step_learns_relations_and_leaves_the_teacher_alone(own: bool) -> None:
    model = bert()
    teacher = "self" if own else copy.deepcopy(model)
    Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model)
    ofa = OFA(model, distill_config=DistillConfig(teacher_model=teacher, relations=AttentionRelations()))
    optimizer = paddle.optimizer.Adam(0.003, parameters=ofa.parameters())
    small, full = dynabert_config(ofa, 0.5), dynabert_config(ofa, 1.0)
    losses = []
    for _ in range(25):
        found = ofa.train_step((ids(),), lambda *outputs: outputs[0].sum() * 0.0, [full, small] if own else [small])
        losses.append(float(found[-1]))
        optimizer.step()
        optimizer.clear_grad()
    assert losses[-1] < 0.5 * losses[0]
    if not own:
        assert isinstance(teacher, nn.Layer)
        assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("engine", ["static", "inference"])
def test_compiled_and_cached_teachers_give_the_same_loss(engine: str, tmp_path: Path) -> None:
    model, batch = bert(), ids()
    losses = []
    for kind, cache in (("dygraph", None), (engine, None), ("dygraph", TeacherCache(tmp_path, 3))):
        own = copy.deepcopy(model)
        Convert(supernet(expand_ratio=[1.0, 0.5])).convert(own)
        config = DistillConfig(
            teacher_model=copy.deepcopy(model), teacher_engine=kind, cache_teacher=cache, relations=AttentionRelations()
        )
        ofa = OFA(own, distill_config=config)
        for _ in range(2 if cache else 1):
            losses.append(float(ofa.train_step({"input_ids": batch}, lambda *given: given[0].sum() * 0.0,
                                               [dynabert_config(ofa, 0.5)])[0]))  # fmt: skip
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-3)


@each_family(("bert", "electra", "nezha", "roformer", "mpnet", "ernie-layout", "gpt", "albert"))
def test_families_find_their_projections(name: str) -> None:
    model = FAMILIES[name]()
    teacher = copy.deepcopy(model)
    Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model)
    ofa = OFA(
        model,
        distill_config=DistillConfig(
            teacher_model=teacher, teacher_engine="dygraph", relations=AttentionRelations(kinds=tuple(PAIRS))
        ),
    )
    ofa.eval()
    losses = []
    for width in (1.0, 0.5):
        ofa.set_net_config(dynabert_config(ofa, width))
        ofa(**inputs(name))
        losses.append(float(ofa.calc_distill_loss()))
    assert abs(losses[0]) < 1e-4 < losses[1]


def test_a_hidden_size_and_a_depth_need_nothing_more() -> None:
    model = bert(layers=4)
    teacher = copy.deepcopy(model)
    Convert(supernet(hidden_size=[16, 8], expand_ratio=[1.0, 0.5])).convert(model)
    ofa = OFA(
        model,
        RunConfig(elastic_depth=(2, 4)),
        DistillConfig(teacher_model=teacher, teacher_engine="dygraph", relations=AttentionRelations()),
    )
    with ofa.subnet(ofa.search_space.smallest()):
        pass
    ofa.set_net_config(ofa.search_space.smallest())
    ofa(ids())
    assert float(ofa.calc_distill_loss()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": "values"}, "kinds 'values' is not a list"),
        ({"kinds": ()}, "is not a list"),
        ({"kinds": ("value",)}, "did you mean 'values'"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": True}, "heads is True"),
        ({"weight": -1.0}, "weight -1.0"),
        ({"weight": float("nan")}, "weight nan"),
        ({"blocks": {}}, "blocks {}"),
        ({"blocks": {0: "1"}}, "pairs of numbers"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttentionRelations(**arguments)


def test_what_does_not_fit_the_models_is_named() -> None:
    def of(relations: Any, teacher: nn.Layer | None = None) -> OFA:
        return ofa_of(bert(), bert() if teacher is None else teacher, relations=relations)

    with pytest.raises(ConfigError, match="the student has no block 2; it has 2"):
        of(AttentionRelations({2: 0}))
    with pytest.raises(ConfigError, match="heads 3 does not divide 4"):
        of(AttentionRelations(heads=3))
    with pytest.raises(ConfigError, match="the teacher, a Linear, has 0 stacks"):
        of(AttentionRelations(), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="not an AttentionRelations"):
        of("values")
    with pytest.raises(ConfigError, match="relations was given without a teacher_model"):
        DistillConfig(relations=AttentionRelations())
    ofa = of(AttentionRelations())
    with pytest.raises(DistillError, match="before any forward"):
        ofa.calc_distill_loss()
