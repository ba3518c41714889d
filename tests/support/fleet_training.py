"""Training with `paddle.distributed.fleet`, data-parallel and with sharded moments; weights come out as arrays by name.

`data_parallel` and `sharded` are for one of two processes each and write ``rank<number>.npz`` to a folder. The tests
call `run` as well: one process on its own is the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import distributed, nn
from paddle.distributed import fleet

from models import Tagger, batch, bert
from ofa_slim import OFA, Convert, DistillConfig, RunConfig, supernet
from ofa_slim.train.parallel import reduce_gradients, training_rows
from parallel_training import batches, soft

STEPS = 8


def data_parallel(folder: Path) -> None:
    _write(folder, {"dp_degree": 2})


def sharded(folder: Path) -> None:
    _write(folder, {"sharding_degree": 2, "dp_degree": 1})


def _write(folder: Path, degrees: dict[str, int]) -> None:
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = degrees
    fleet.init(is_collective=True, strategy=strategy)
    # Only an optimizer whose moments are spread over the processes averages gradients by itself.
    np.savez(folder / f"rank{distributed.get_rank()}.npz", **run(average="sharding_degree" not in degrees))


def run(average: bool = True) -> dict[str, Any]:
    """Some steps of several sub-networks each, on all rows, in however many processes there are."""
    paddle.seed(7)
    teacher = Tagger()
    paddle.seed(distributed.get_rank())
    several = distributed.get_world_size() > 1
    network: nn.Layer = Convert(supernet(expand_ratio=[1.0, 0.5, 0])).convert(Tagger())
    optimizer: Any = paddle.optimizer.AdamW(1e-3, epsilon=1e-4, parameters=network.parameters())
    if several:
        network, optimizer = fleet.distributed_model(network), fleet.distributed_optimizer(optimizer)
    ofa = OFA(network, RunConfig(elastic_depth=(1, 2)), DistillConfig(teacher_model=teacher, teacher_engine="dygraph"))
    ofa.train()
    rng = np.random.default_rng(0)
    for ids in batches(np.random.default_rng(0))[:STEPS]:
        configs = [ofa.search_space.largest(), ofa.search_space.sample(rng)]
        rows, weight = training_rows(len(ids))
        ofa.train_step(paddle.to_tensor(ids[rows]), soft, configs, scale=weight)
        if average:
            reduce_gradients(ofa.parameters())
        optimizer.step()
        optimizer.clear_grad()
    return {name: tensor.numpy() for name, tensor in ofa.supernet.model.named_parameters()}


def page(code: str, folder: Path) -> None:
    """Runs a page's code on a model of this process."""
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(bert())
    names: dict[str, Any] = {
        "model": model,
        "optimizer": paddle.optimizer.AdamW(1e-3, parameters=model.parameters()),
        "soft_labels": lambda answer, *_: (answer**2).mean(),
        "configs": None,
    }
    names["input_ids"], names["token_type_ids"] = batch()
    exec(code, names)
    found = {name: tensor.numpy() for name, tensor in names["ofa"].supernet.model.named_parameters()}
    np.savez(folder / f"rank{distributed.get_rank()}.npz", **found)
