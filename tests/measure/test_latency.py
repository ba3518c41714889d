"""Latency tables: blocks, grids, the rule of measuring, what they hold for. No test depends on how fast anything is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.vision import models as vision

import ofa_slim
from families import FAMILIES, bart, t5
from models import batch, bert, encoder, ofa_of
from ofa_slim import OFA, Convert, RunConfig, supernet
from ofa_slim.base.clock import Latency, Rule, in_turns, one_turn, over_loads, ratio, rest, steady
from ofa_slim.base.examples import Example
from ofa_slim.errors import LatencyError
from ofa_slim.measure import LatencyTable, measure_latency, programs
from ofa_slim.measure.block_times import Times
from ofa_slim.measure.blocks import find_blocks, program_of
from ofa_slim.search import SearchConfig
from ofa_slim.search.costs import times_of

SHAPES = [[1, 8], [1, 8]]


class Machine:
    """A clock that runs as programs say, and an engine whose programs take time by their weights."""

    def __init__(self) -> None:
        self.now = 0.0
        self.saved = 0
        self.counted: tuple[type[nn.Layer], ...] = (nn.Layer,)

    def clock(self) -> float:
        return self.now

    def weights(self, layer: nn.Layer) -> int:
        """How many weights the layers that are counted have."""
        owners = [owner for owner in layer.sublayers(include_self=True) if isinstance(owner, self.counted)]
        found = {id(one): one for owner in owners for one in owner.parameters(include_sublayers=False) if one.ndim > 1}
        return sum(int(parameter.size) for parameter in found.values())

    def save(self, layer: nn.Layer, example: Example) -> Callable[[], Callable[[], None]]:
        example.call(layer)  # it has to run
        self.saved += 1
        seconds = 1e-5 + 1e-6 * self.weights(layer)

        def run() -> None:
            self.now += seconds

        return lambda: run


def use_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    monkeypatch.setattr(in_turns, "__defaults__", (clock,))
    monkeypatch.setattr(one_turn, "__defaults__", (1, clock))


def use(machine: Machine, patch: pytest.MonkeyPatch) -> Machine:
    patch.setitem(programs.ENGINES, "counted", machine.save)
    use_clock(patch, machine.clock)
    return machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return use(Machine(), monkeypatch)


def encoder_of(layers: int = 3) -> OFA:
    return ofa_of(bert(layers=layers), ratios=[1.0, 0.75, 0.5, 0.25], run_config=RunConfig(elastic_depth=[2, 3]))


def built(ofa: OFA, shapes: Any = SHAPES, **more: Any) -> LatencyTable:
    # A program of such an engine takes the same time in every round.
    rule = Rule(warm_up=0, least=2, most=2)
    return LatencyTable.build(ofa, input_shapes=shapes, engine="counted", progress=False, rule=rule, **more)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[OFA, Path]:
    """A supernet and the file of its table; tests leave both as they are."""
    ofa, file = encoder_of(), tmp_path_factory.mktemp("latency") / "table.json"
    with pytest.MonkeyPatch.context() as patch:
        use(Machine(), patch)
        built(ofa).save(file)
    return ofa, file


def test_where_time_is_the_sum_of_the_weights_every_prediction_is_right(machine: Machine) -> None:
    ofa = encoder_of()
    table, rng = built(ofa), np.random.default_rng(0)
    assert len(table.times) == 1, "blocks of the same structure share their measurements"
    for config in [ofa.search_space.sample(rng) for _ in range(5)]:
        plain = ofa.export(config=config)
        weights = sum(int(parameter.size) for parameter in plain.parameters() if parameter.ndim > 1)
        assert table.predict(config) == pytest.approx(1e3 * (1e-5 + 1e-6 * weights), rel=1e-6)


def test_each_program_is_written_once_however_often_it_is_loaded(machine: Machine) -> None:
    ofa = ofa_of(bert(layers=1), ratios=[1.0, 0.5])
    table = built(ofa)
    blocks = {sizes for times in table.times.values() for sizes in product(*times.grid)}
    # The middle of both dimensions, and each of them at its other size; whole sub-networks; the empty program.
    assert len(blocks) == 4
    assert machine.saved == 3 + len(table.measured_subnets) + 1


def test_a_convolutional_network_is_predicted_from_its_layers(machine: Machine) -> None:
    shape = [1, 3, 32, 32]
    model = Convert(supernet(kernel_size=(3, 5), expand_ratio=[0.25, 0.5, 1.0])).convert(
        vision.mobilenet_v1(scale=0.25)
    )
    ofa = OFA(model, example_inputs=paddle.rand(shape))
    table, rng = built(ofa, shape), np.random.default_rng(0)
    for config in [ofa.search_space.largest(), *(ofa.search_space.sample(rng) for _ in range(3))]:
        plain = ofa.export(config=config, input_shapes=shape)
        weights = sum(int(parameter.size) for parameter in plain.parameters() if parameter.ndim > 1)
        assert table.predict(config) == pytest.approx(1e3 * (1e-5 + 1e-6 * weights), rel=0.01)


def test_a_block_alone_computes_what_it_does_in_the_model() -> None:
    ofa = ofa_of(bert(layers=1), ratios=[1.0, 0.5])
    model, space = ofa.model, ofa.search_space
    (seen,) = find_blocks(ofa.supernet, ofa.supernet.example(SHAPES))
    config = space.complete({"encoder.0.heads": 2, "encoder.0.ffn": 6})
    layer, example = program_of(ofa.supernet, seen, config)
    with ofa.subnet(config), paddle.no_grad():
        expected = seen.example.args[0]
        for _ in range(4):
            expected = model.bert.encoder.layers[0](expected, *seen.example.args[1:], **seen.example.kwargs)
    assert float((example.call(layer) - expected).abs().max()) < 1e-5


def test_finding_blocks_leaves_the_model_as_it_was() -> None:
    ofa = encoder_of()
    half = ofa.search_space.uniform(0.5)
    with ofa.subnet(half):
        before = ofa(paddle.ones([1, 4], "int64")).numpy()
        find_blocks(ofa.supernet, ofa.supernet.example(SHAPES))
        assert np.array_equal(ofa(paddle.ones([1, 4], "int64")).numpy(), before)
    assert all("forward" not in vars(layer) for layer in ofa.model.sublayers())


def test_a_table_is_the_same_when_read_back(machine: Machine, tmp_path: Path) -> None:
    ofa = encoder_of()
    table = built(ofa)
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    again.check(ofa, SHAPES)
    assert again.key == table.key
    config = ofa.search_space.complete({"encoder.0.heads": 3, "encoder.2.ffn": 17, "encoder.depth": 2})
    assert again.predict(config) == table.predict(config)
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize("name", ["device", "threads", "version", "model", "inputs"])
def test_a_table_of_anything_else_is_refused_with_the_reason(saved: tuple[OFA, Path], name: str) -> None:
    ofa, file = saved
    table = LatencyTable.load(file)
    table.about = replace(table.about, **{name: 7 if name == "threads" else "another"})
    with pytest.raises(LatencyError, match=f"another {name}.*(7|another).* here"):
        table.check(ofa, SHAPES)


def test_a_table_holds_for_one_model_and_one_shape(saved: tuple[OFA, Path]) -> None:
    ofa, file = saved
    table = LatencyTable.load(file)
    with pytest.raises(LatencyError, match=r"another inputs.*\[1, 8\].*\[2, 8\]"):
        table.check(ofa, [[2, 8], [2, 8]])
    with pytest.raises(LatencyError, match="another model"):
        table.check(encoder_of(layers=4), SHAPES)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LatencyError, match="latency table"):
        LatencyTable.load(file)
    with pytest.raises(LatencyError, match="cannot read"):
        LatencyTable.load(tmp_path / "none.json")


def test_a_damaged_table_is_refused(saved: tuple[OFA, Path], tmp_path: Path) -> None:
    content = json.loads(saved[1].read_text(encoding="utf-8"))
    file = tmp_path / "table.json"
    for key in ("kinds", "blocks", "about", "fixed_ms"):
        file.write_text(json.dumps({**content, key: [{"odd": 1}]}), encoding="utf-8")
        with pytest.raises(LatencyError, match="damaged latency table"):
            LatencyTable.load(file)


def test_an_engine_that_is_not_there_is_named() -> None:
    with pytest.raises(LatencyError, match="engine 'tensorrt' is not one of inference"):
        LatencyTable.build(encoder_of(), engine="tensorrt")


def test_a_table_is_of_the_device_that_paddle_uses(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda device: f"a card, {device}")
    table = built(encoder_of())
    assert table.about.device == "a card, gpu:0"
    with pytest.raises(LatencyError, match=r"engine 'onnx' is timed on the CPU, and Paddle was told to use gpu:0"):
        LatencyTable.build(encoder_of(), input_shapes=SHAPES, engine="onnx", progress=False)


def test_blocks_that_share_an_axis_are_predicted(machine: Machine) -> None:
    model = Convert(supernet(expand_ratio=[0.5, 1.0])).convert(encoder())
    ofa = OFA(model, RunConfig(same_search_space=[["layers.0.linear1", "layers.1.linear1"]]))
    table = built(ofa, [1, 4, 16], input_dtypes="float32")
    for size in (12, 24):
        config = ofa.search_space.complete({"encoder.0.ffn": size})
        plain = ofa.export(config=config, input_shapes=[1, 4, 16], input_dtypes="float32")
        weights = sum(int(parameter.size) for parameter in plain.parameters() if parameter.ndim > 1)
        assert table.predict(config) == pytest.approx(1e3 * (1e-5 + 1e-6 * weights), rel=1e-6)


def test_blocks_that_are_fed_what_their_axis_cuts_are_predicted(machine: Machine) -> None:
    """An MPNet's biases for places have a column per head, and go into each block."""
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(FAMILIES["mpnet"](num_hidden_layers=2)))
    table, rng = built(ofa, [1, 6]), np.random.default_rng(0)
    for config in [ofa.search_space.sample(rng) for _ in range(4)]:
        plain = ofa.export(config=config, input_shapes=[1, 6])
        weights = sum(int(parameter.size) for parameter in plain.parameters() if parameter.ndim > 1)
        # The table of the biases is no block: its columns are part of the fixed time.
        assert table.predict(config) == pytest.approx(1e3 * (1e-5 + 1e-6 * weights), rel=0.03)


def test_blocks_of_every_hidden_size_are_predicted(machine: Machine, tmp_path: Path) -> None:
    elastic = supernet(expand_ratio=[1.0, 0.5, 0.25], hidden_size=[16, 8, 4])
    ofa = OFA(Convert(elastic).convert(bert(layers=3)), RunConfig(elastic_depth=[2, 3]))
    machine.counted = (nn.Linear,)  # looking up a token takes as long whatever the table holds
    table, rng = built(ofa), np.random.default_rng(0)
    assert len(table.times) == 3, "the blocks, the pooler, and the classifier"
    configs = [ofa.search_space.sample(rng) for _ in range(12)]
    for config in configs:
        plain = ofa.export(config=config)
        assert table.predict(config) == pytest.approx(1e3 * (1e-5 + 1e-6 * machine.weights(plain)), rel=1e-6)
    assert len({config["hidden_size"] for config in configs}) == 3
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").key == table.key


def test_a_block_that_is_called_again_and_again_takes_time_by_its_calls(machine: Machine) -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(FAMILIES["albert"]()))
    table = built(ofa, [1, 6])
    assert len(table.blocks) == 1
    times = [table.blocks_ms(ofa.search_space.complete({"encoder.depth": depth})) for depth in (1, 2, 3)]
    assert times == pytest.approx([times[0], 2 * times[0], 3 * times[0]])


def test_between_measured_sizes_times_are_on_the_line() -> None:
    apart = Times(((2, 4), (10, 30)), ((1.0, 3.0), (2.0, 6.0)), base=3.0, additive=True)
    assert apart((3, 20)) == pytest.approx(2.0 + 4.0 - 3.0)
    together = Times(((2, 4), (10, 30)), ((1.0, 2.0, 3.0, 8.0),), base=0.0, additive=False)
    assert together((3, 20)) == pytest.approx((1.0 + 2.0 + 3.0 + 8.0) / 4)
    assert together((4, 30)) == 8.0
    assert Times(((5,),), ((7.0,),), base=0.0, additive=False)((5,)) == 7.0


def test_programs_take_turns_until_their_medians_are_steady() -> None:
    now, order = [0.0], []

    def turn(name: str, seconds: Callable[[int], float]) -> Callable[[], list[float]]:
        def run() -> None:
            now[0] += seconds(order.count(name))

        def own() -> list[float]:
            order.append(name)
            return one_turn(run, 3, 1e9, 1, lambda: now[0])

        return own

    rule = Rule(warm_up=2, least=10, most=100, spread=0.01, seconds=1e9, limit=1e9)
    rounds = in_turns(
        {
            "even": turn("even", lambda turn: 2.0),
            "late": turn("late", lambda turn: 9.0 if turn < 31 and turn % 2 else 1.0),
        },
        rule,
        lambda: now[0],
    )
    assert len(rounds["even"]) == len(rounds["late"]) > 20, "an unsteady program is measured for longer"
    assert all({one, other} == {"even", "late"} for one, other in zip(order[::2], order[1::2], strict=True))
    assert ratio(rounds["late"], rounds["even"]) == 0.5
    assert all(round_ == [2.0] * 3 for round_ in rounds["even"])
    assert Latency.of(rounds["even"]) == Latency(2000.0, 2000.0, 3 * len(rounds["even"]))


def test_a_turn_has_one_run_that_does_not_count_and_ends_after_its_time() -> None:
    now = [0.0]

    def run() -> None:
        now[0] += 1.0

    assert one_turn(run, 5, 2.5, 1, lambda: now[0]) == [1.0] * 3
    assert now[0] == 4.0
    assert one_turn(run, 5, 0.0, 0, lambda: now[0]) == [1.0], "one run at least is timed"


@pytest.mark.parametrize(("spins", "waits"), [(0.0, 1), (0.055, 7), (0.2, 21), (9.0, 100)])
def test_a_process_waits_until_its_threads_are_idle(spins: float, waits: int) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    rest(1.0, 0.01, lambda: min(now[0], spins), lambda: round(now[0], 6), sleep)
    assert round(now[0] / 0.01) == waits


@pytest.mark.parametrize(("rule", "rounds"), [
    (Rule(warm_up=0, runs=1, least=10, most=500, spread=0.0, seconds=40.0, limit=1e9), 14),
    (Rule(warm_up=0, runs=1, least=10, most=500, spread=0.0, seconds=1e9, limit=20.0), 7),
    (Rule(warm_up=0, runs=1, least=10, most=12, spread=0.0, seconds=1e9, limit=1e9), 12),
])  # fmt: skip
def test_measuring_ends_though_nothing_is_steady(rule: Rule, rounds: int) -> None:
    now, jumps = [0.0], np.random.default_rng(0)

    def turn() -> list[float]:
        now[0] += 3.0
        return [1.0 + jumps.random()]

    assert len(in_turns({"odd": turn}, rule, lambda: now[0])["odd"]) == rounds
    assert not steady([[1.0], [2.0]] * 5, 0.1)


def test_programs_are_loaded_more_than_once() -> None:
    """A load that happens to be slow does not decide."""
    loads = iter([1.0, 5.0, 1.0])
    now = [0.0]

    def load() -> Callable[[], None]:
        seconds = next(loads)

        def run() -> None:
            now[0] += seconds

        return run

    patched = pytest.MonkeyPatch()
    use_clock(patched, lambda: now[0])
    with patched.context():
        rounds = over_loads({"some": load}, Rule(least=2, seconds=0.0), loads=3)
    patched.undo()
    assert Latency.of(rounds["some"]).median == 1000.0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inference", "onnx", "onnx-int8"])
def test_exported_models_are_timed_by_the_engine(engine: str) -> None:
    if engine != "inference":
        pytest.importorskip("onnxruntime")
    ofa = ofa_of(bert(layers=1), ratios=[1.0, 0.5])
    models = {
        "large": ofa.export(config=ofa.search_space.largest()),
        "small": ofa.export(config=ofa.search_space.smallest()),
    }
    found = measure_latency(models, SHAPES, engine=engine, rule=Rule(most=3, least=1))
    assert set(found) == {"large", "small"}
    assert all(0 < latency.median <= latency.p95 for latency in found.values())
    rule = Rule(most=3, least=1)
    table = LatencyTable.build(ofa, input_shapes=SHAPES, engine=engine, progress=False, rule=rule)
    assert table.predict(ofa.search_space.largest()) > 0
    assert ("ONNX Runtime" in table.about.version) == (engine != "inference")
    table.check(ofa, SHAPES)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "onnx-int8"])
def test_a_program_keeps_no_core_busy_after_its_turn(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run = programs.ENGINES[engine](encoder(heads=8, head_dim=16, ffn=512), Example((paddle.rand([8, 32, 128]),)))()
    busy = []
    for _ in range(5):
        run()
        before = time.process_time()
        time.sleep(0.05)
        busy.append(time.process_time() - before)
    assert min(busy) < 0.01, "its threads take a core from the next program"


def test_a_search_and_a_call_without_training_measure_in_the_engine_that_will_serve(
    machine: Machine, tmp_path: Path
) -> None:
    ofa = encoder_of()
    config = SearchConfig(candidates=3, engine="counted", directory=tmp_path / "search", input_shapes=SHAPES, winners=1)
    found = ofa.search(lambda one: 1.0, {"latency_ratio": 0.95}, config)
    assert machine.saved
    assert LatencyTable.load(tmp_path / "search" / "latency.json").about.engine == "counted"
    (winner,) = found.winners
    assert winner.latency_ms == pytest.approx(found.best.costs["latency_ms"], rel=0.2), "and so are the winners"
    other = replace(config, engine="inference")
    with pytest.raises(LatencyError, match="holds for another engine: 'counted' there, 'inference' here"):
        ofa.search(lambda one: 1.0, {"latency_ratio": 0.95}, other)
    rows = [{"input_ids": batch(8, seed=seed)[0]} for seed in range(4)]
    small = ofa_slim.compress(
        bert(layers=2), rows, budget={"latency_ratio": 0.8}, engine="counted", input_shapes=SHAPES, directory=tmp_path
    )
    assert LatencyTable.load(tmp_path / "latency.json").about.engine == "counted"
    assert small.report.costs["latency_ratio"] <= 0.8


def test_times_are_kept_for_later_runs_of_the_same_conditions(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OFA_SLIM_CACHE", str(tmp_path / "kept"))
    ofa = encoder_of()

    def measured(shapes: Any = SHAPES, **choices: tuple[int, ...]) -> tuple[int, LatencyTable]:
        """How many programs were written for the times, and these."""
        before, supernet = machine.saved, ofa.supernet
        space = supernet.space.with_choices(choices) if choices else supernet.space
        table = times_of(supernet, space, shapes, None, "counted", None, progress=False)
        return machine.saved - before, table

    first, table = measured()
    assert first
    with caplog.at_level("INFO"):
        again, same = measured()
    assert (again, same.key) == (0, table.key)
    assert f"measured on {table.about.measured}; delete {tmp_path / 'kept'}" in caplog.text
    assert measured([[1, 4], [1, 4]])[0], "other inputs"
    assert measured(**{"encoder.0.ffn": (12, 24)})[0], "other choices"
    assert len(list((tmp_path / "kept").iterdir())) == 3
    for file in (tmp_path / "kept").iterdir():
        file.write_text("{", encoding="utf-8")
    assert measured()[0] == first, "what is damaged is measured again"
    assert measured()[0] == 0
    (tmp_path / "file").touch()
    monkeypatch.setenv("OFA_SLIM_CACHE", str(tmp_path / "file" / "kept"))
    with caplog.at_level("INFO"):
        assert measured()[0] == first
    assert "cannot be kept for later runs" in caplog.text
    for nowhere in ("", "~nobody-of-this-name/kept"):
        monkeypatch.setenv("OFA_SLIM_CACHE", nowhere)
        assert measured()[0] == measured()[0] == first


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (FAMILIES["llama"], {"input_ids": [1, 6]}),
        (bart, {"input_ids": [1, 6], "decoder_input_ids": [1, 4]}),
        (t5, {"input_ids": [1, 6], "decoder_input_ids": [1, 4]}),
    ],
)
def test_reading_a_prompt_is_predicted_for_decoders(
    model: Callable[[], nn.Layer], shapes: dict[str, list[int]], machine: Machine
) -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model()))
    table, rng = built(ofa, shapes), np.random.default_rng(0)
    for config in [ofa.search_space.sample(rng) for _ in range(4)]:
        plain = ofa.export(config=config, input_shapes=shapes)
        weights = sum(int(parameter.size) for parameter in plain.parameters() if parameter.ndim > 1)
        assert table.predict(config) == pytest.approx(1e3 * (1e-5 + 1e-6 * weights), rel=0.03)
