"""What is no argument at all is refused by the library's own errors, which name it, before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import batch, bert, ofa_of
from ofa_slim import (
    OFA,
    CheckpointManager,
    Convert,
    Finish,
    RunConfig,
    SubnetConfig,
    Training,
    compress,
    factorise_embeddings,
    load_subnet,
    pipeline,
    prune_vocabulary,
    save_subnet,
    set_state_dict,
    supernet,
    to_static,
)
from ofa_slim.closed_form import Calibration
from ofa_slim.errors import OfaSlimError
from ofa_slim.export.formats import write_formats
from ofa_slim.measure import LatencyTable, measure_latency
from ofa_slim.search import SearchConfig
from ofa_slim.train.strategies import Sandwich, Uniform

LOADER = [batch()] * 4
BUDGET = {"flops_ratio": 0.6}
SAMPLES = [{"input_ids": np.ones((64, 5), "int64")}]
NOTHING = object()

NO_MODEL: list[Any] = [None, 3, "x", {"a": 1}, [nn.Linear]]
NO_LIST: list[Any] = [3, True, float("nan"), NOTHING, {"a": 1}]
NO_NUMBER: list[Any] = ["x", float("nan"), [], {"a": 1}, NOTHING]
NO_PATH: list[Any] = [None, 3, b"x", [], {"a": 1}, ""]
NO_SHAPES: list[Any] = [3, float("nan"), NOTHING, {}, [None, 7, 9]]
NO_DTYPE: list[Any] = [3, "x", {"a": 1}, NOTHING]
NO_OBJECT: list[Any] = [3, "x", {"a": 1}, (1,)]


def conv() -> nn.Layer:
    return nn.Sequential(nn.Conv2D(3, 8, 3), nn.Conv2D(8, 4, 3))


CALLS: dict[str, tuple[Callable[[Any, Path], Any], list[Any]]] = {
    "compress model": (lambda wrong, path: compress(wrong, LOADER, budget=BUDGET), NO_MODEL),
    "compress loader": (lambda wrong, path: compress(bert(), wrong, budget=BUDGET), NO_LIST),
    "compress rows": (lambda wrong, path: compress(bert(), LOADER, budget=BUDGET, rows=wrong), NO_NUMBER),
    "compress curve_rows": (lambda wrong, path: compress(bert(), LOADER, budget=BUDGET, curve_rows=wrong), NO_NUMBER),
    "compress latency": (lambda wrong, path: compress(bert(), LOADER, budget=BUDGET, latency=wrong), NO_OBJECT),
    "compress shapes": (lambda wrong, path: compress(bert(), LOADER, budget=BUDGET, input_shapes=wrong), NO_SHAPES),
    "compress dtypes": (lambda wrong, path: compress(bert(), LOADER, budget=BUDGET, input_dtypes=wrong), NO_DTYPE),
    "Training widths": (lambda wrong, path: Training(widths=wrong), NO_LIST),
    "Training depths": (lambda wrong, path: Training(depths=wrong), NO_LIST),
    "Training epochs": (lambda wrong, path: Training(epochs=wrong), NO_NUMBER),
    "Finish epochs": (lambda wrong, path: Finish(epochs=wrong), NO_NUMBER),
    "expand_ratio": (lambda wrong, path: supernet(expand_ratio=wrong), NO_LIST),
    "channel": (lambda wrong, path: supernet(channel=wrong), [*NO_LIST, [8.0], ["8"], [True], [NOTHING]]),
    "convert": (lambda wrong, path: Convert(supernet(expand_ratio=[1.0])).convert(wrong), NO_MODEL),
    "set_state_dict model": (lambda wrong, path: set_state_dict(wrong, {}), NO_MODEL),
    "set_state_dict": (lambda wrong, path: set_state_dict(bert(), wrong), [None, 3, "x", []]),
    "OFA": (lambda wrong, path: OFA(wrong), NO_MODEL),
    "run_config": (lambda wrong, path: OFA(bert(), wrong), NO_OBJECT),
    "distill_config": (lambda wrong, path: OFA(bert(), None, wrong), NO_OBJECT),
    "elastic_order": (lambda wrong, path: OFA(ofa_of(bert()).model, elastic_order=wrong), NO_LIST),
    "input_spec": (lambda wrong, path: OFA(conv(), input_spec=wrong), NO_LIST),
    "RunConfig": (lambda wrong, path: RunConfig(train_batch_size=wrong), NO_NUMBER),
    "export shapes": (lambda wrong, path: ofa_of(bert()).export(config={}, input_shapes=wrong), NO_SHAPES),
    "export dtypes": (lambda wrong, path: ofa_of(bert()).export(config={}, input_dtypes=wrong), NO_DTYPE),
    "export repair": (lambda wrong, path: ofa_of(bert()).export(config={}, repair=wrong), NO_LIST),
    "loss_fn": (lambda wrong, path: ofa_of(bert()).train_step(batch(), wrong), NO_OBJECT),
    "configs": (lambda wrong, path: ofa_of(bert()).train_step(batch(), paddle.mean, wrong), NO_LIST),
    "search_config": (lambda wrong, path: ofa_of(bert()).search(lambda _: 1.0, BUDGET, wrong), NO_OBJECT),
    "SearchConfig seed": (lambda wrong, path: SearchConfig(seed=wrong), NO_NUMBER),
    "SearchConfig engine": (lambda wrong, path: SearchConfig(engine=wrong), [None, 3, [], {}]),
    "SearchConfig directory": (lambda wrong, path: SearchConfig(directory=wrong), NO_PATH[1:]),
    "SubnetConfig": (lambda wrong, path: SubnetConfig(wrong), [None, 3, "x", []]),
    "complete": (lambda wrong, path: ofa_of(bert()).search_space.complete(wrong), [None, 3, "x", []]),
    "sample": (lambda wrong, path: ofa_of(bert()).search_space.sample(wrong), [None, 3]),
    "Uniform": (lambda wrong, path: Uniform(wrong, [1.0]), NO_OBJECT),
    "Uniform widths": (lambda wrong, path: Uniform(ofa_of(bert()).search_space, wrong), NO_LIST),
    "Sandwich": (lambda wrong, path: Sandwich(wrong), NO_OBJECT),
    "Calibration model": (lambda wrong, path: Calibration(wrong, LOADER), NO_MODEL),
    "Calibration": (lambda wrong, path: Calibration(bert(), wrong), NO_LIST),
    "factorise": (lambda wrong, path: factorise_embeddings(wrong, 2), NO_MODEL),
    "factorise rank": (lambda wrong, path: factorise_embeddings(bert(), wrong), NO_NUMBER),
    "factorise names": (lambda wrong, path: factorise_embeddings(bert(), 2, wrong), NO_LIST),
    "prune_vocabulary": (lambda wrong, path: prune_vocabulary(wrong, None, ["a"]), NO_MODEL),
    "to_static": (lambda wrong, path: to_static(wrong, path), NO_MODEL),
    "to_static directory": (lambda wrong, path: to_static(bert(), wrong), NO_PATH),
    "save_subnet": (lambda wrong, path: save_subnet(wrong, path), NO_MODEL),
    "save_subnet directory": (lambda wrong, path: save_subnet(bert(), wrong), NO_PATH),
    "load_subnet": (lambda wrong, path: load_subnet(wrong), NO_PATH),
    "pipeline": (lambda wrong, path: pipeline(wrong), NO_PATH),
    "CheckpointManager": (lambda wrong, path: CheckpointManager(wrong), NO_PATH),
    "LatencyTable.load": (lambda wrong, path: LatencyTable.load(wrong), NO_PATH),
    "write_formats": (lambda wrong, path: write_formats(wrong, path, SAMPLES), NO_MODEL),
    "write_formats directory": (lambda wrong, path: write_formats(bert(), wrong, SAMPLES), NO_PATH),
    "write_formats samples": (lambda wrong, path: write_formats(bert(), path, wrong), NO_LIST),
    "write_formats formats": (lambda wrong, path: write_formats(bert(), path, SAMPLES, wrong), NO_LIST),
    "measure_latency": (lambda wrong, path: measure_latency(wrong), [None, 3, "x", [], {"a": 1}]),
    "measure_latency shapes": (lambda wrong, path: measure_latency({"a": conv()}, wrong), NO_SHAPES),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_refused_by_name(name: str, tmp_path: Path) -> None:
    call, wrong_ones = CALLS[name]
    for wrong in wrong_ones:
        with pytest.raises(OfaSlimError):  # the messages differ
            call(wrong, tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compress(3, LOADER, budget=BUDGET), "model is a int, not a paddle.nn.Layer"),  # type: ignore[arg-type]
        (lambda: Calibration(bert(), None), "the calibration loader is None, not a list of batches"),  # type: ignore[arg-type]
        (lambda: Training(widths=3), "widths is 3, not a list of shares"),  # type: ignore[arg-type]
        (lambda: load_subnet(3), "directory is 3, not a path"),  # type: ignore[arg-type]
        (lambda: OFA(bert(), "x"), "run_config is 'x', not a RunConfig"),  # type: ignore[arg-type]
        (lambda: ofa_of(bert()).export(config={}, input_dtypes="text"), "'text' is not one of bool, int8"),
    ],
)
def test_the_message_says_what_is_allowed(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(OfaSlimError, match=message):
        call()
