"""What every process does in the tests of data-parallel training; what it found comes out as arrays by name.

`main` is for one of several processes and writes ``rank<number>.npz`` to a folder. The tests call `run` as well: one
process on its own is the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import distributed, nn

from models import VOCABULARY, Tagger, ofa_of
from ofa_slim import OFA, RunConfig
from ofa_slim.errors import OfaSlimError
from ofa_slim.train.parallel import (
    barrier,
    broadcast_parameters,
    check_same,
    gather_rows,
    is_writer,
    mean_over_ranks,
    own_rows,
    reduce_gradients,
    start,
    training_rows,
)

STEPS = 20
MAPPED = ["embed", "body.layers.0", "body.layers.1"]

Found = dict[str, Any]


def run() -> Found:
    found = {"before start": failure(barrier)}
    start()
    start()
    sent = counted()
    found.update(training("sgd", paddle.optimizer.SGD, 0.1, sent))
    found.update(training("adamw", paddle.optimizer.AdamW, 1e-3, sent))
    found.update(unused_parameters(sent))
    found.update(dtypes())
    found.update(metrics())
    found.update(failures())
    found["writes"] = is_writer()
    barrier()
    return found


def counted() -> list[int]:
    """Gets the size of the tensor of every `all_reduce` from now on."""
    sent: list[int] = []
    whole = distributed.all_reduce

    def all_reduce(tensor: paddle.Tensor, *more: Any, **named: Any) -> Any:
        sent.append(int(tensor.size))
        return whole(tensor, *more, **named)

    distributed.all_reduce = all_reduce
    return sent


def learner() -> OFA:
    """A supernet that starts out differently on every rank, and a teacher that is the same on all."""
    paddle.seed(7)
    teacher = Tagger()
    paddle.seed(distributed.get_rank())
    depths = RunConfig(elastic_depth=(1, 2))
    ofa = ofa_of(Tagger(), teacher, run_config=depths, mapping_layers=MAPPED, mapping_op="linear")
    broadcast_parameters(ofa)
    ofa.train()
    return ofa


def parameters_of(ofa: OFA) -> list[paddle.Tensor]:
    return [*ofa.parameters(), *ofa.netAs_param]


def batches(rng: np.random.Generator) -> list[np.ndarray]:
    """Token ids of whole batches, int64 [rows, length]; each is padded to its longest row."""
    found = []
    for number in range(STEPS):
        rows = (6, 5, 8, 1)[number % 4]
        lengths = rng.integers(3, 8, rows)
        ids = rng.integers(1, VOCABULARY, (rows, lengths.max()))
        found.append(np.where(np.arange(lengths.max()) < lengths[:, None], ids, 0))
    return found


def soft(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    return F.cross_entropy(student, F.softmax(teacher), soft_label=True)


def training(name: str, kind: Callable[..., Any], rate: float, sent: list[int]) -> Found:
    """Several chosen sub-networks on one batch and a sampled one on another add up to one step."""
    ofa = learner()
    optimizer = kind(rate, parameters=parameters_of(ofa))
    chosen = [ofa.search_space.largest(), ofa.search_space.smallest(), {"depth": 1}]
    losses, sampled, sizes = [], [], []
    first, second = batches(np.random.default_rng(0)), batches(np.random.default_rng(1))
    for one, other in zip(first, second[1:] + second[:1], strict=True):
        means = []
        for ids, configs in ((one, chosen), (other, None)):
            rows, weight = training_rows(len(ids))
            found = ofa.train_step(paddle.to_tensor(ids[rows]), soft, configs, scale=weight / 2)
            means.append((paddle.stack(found), weight))
        sampled.append(str(ofa.current_config))
        sent.clear()
        reduce_gradients(parameters_of(ofa))
        sizes.append(list(sent))
        optimizer.step()
        optimizer.clear_grad()
        losses.append(np.concatenate([mean_over_ranks(values, weight).numpy() for values, weight in means]))
    check_same(str(ofa.rng.bit_generator.state), "what is sampled")
    # Not only close: every process holds the same bits.
    check_same(str([tensor.numpy().tobytes() for tensor in parameters_of(ofa)]), "the weights")
    weights = {f"{name}/weights/{path}": tensor.numpy() for path, tensor in ofa.model.named_parameters()}
    projections = {f"{name}/projections/{n}": tensor.numpy() for n, tensor in enumerate(ofa.netAs_param)}
    seen = {"losses": np.stack(losses), "sampled": sampled, "sent": sizes}
    return {**weights, **projections, **{f"{name}/{key}": value for key, value in seen.items()}}


def unused_parameters(sent: list[int]) -> Found:
    """At depth 1 nobody reaches the first layer; then only the first half of the batch does."""
    found: Found = {}
    ids = paddle.to_tensor(batches(np.random.default_rng(2))[0])
    alone = distributed.get_world_size() == 1
    for name, depths, size in (("nobody", (1, 1), None), ("one", (2, 1), None), ("one, apart", (2, 1), 1)):
        ofa = learner()
        for rank, (rows, depth) in enumerate(zip((slice(0, 3), slice(3, 6)), depths, strict=True)):
            if alone or rank == distributed.get_rank():
                ofa.train_step(ids[rows], soft, [{"depth": depth}], scale=0.5 if alone else 1.0)
        places = {parameter.name: parameter.grad.data_ptr() for parameter in with_gradient(ofa)}
        sent.clear()
        reduce_gradients(parameters_of(ofa), **({} if size is None else {"buffer_bytes": size}))
        found[f"{name}/buffers"] = len(sent)
        found[f"{name}/in place"] = all(
            parameter.grad.data_ptr() == places.get(parameter.name, parameter.grad.data_ptr())
            for parameter in with_gradient(ofa)
        )
        for path, parameter in ofa.model.named_parameters():
            found[f"{name}/gradients/{path}"] = np.zeros(0) if parameter.grad is None else parameter.grad.numpy()
    found["parameters"] = len(parameters_of(ofa))
    return found


def with_gradient(ofa: OFA) -> list[paddle.Tensor]:
    return [parameter for parameter in parameters_of(ofa) if parameter.grad is not None]


def dtypes() -> Found:
    """Gradients whose sum float16 cannot hold, some of them on rank 0 alone."""
    found: Found = {}
    for shared in (True, False):
        parameters = []
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            parameter = nn.Linear(2, 3, bias_attr=False).to(dtype=dtype).weight
            if shared or is_writer():
                parameter.grad = paddle.full([2, 3], 40000.0, dtype)
            parameters.append(parameter)
        reduce_gradients(parameters)
        for parameter in parameters:
            assert parameter.grad.dtype == parameter.dtype
            name = str(parameter.dtype).removeprefix("paddle.")
            found[f"{'shared' if shared else 'alone'}/{name}"] = parameter.grad.astype("float64").numpy()
    return found


def metrics() -> Found:
    """Rows that were scored apart come together, also where there are fewer rows than processes."""
    found: Found = {}
    ofa = learner()
    ofa.eval()
    ids, labels = np.random.default_rng(3).integers(1, VOCABULARY, (7, 4)), np.arange(7, dtype=np.int32)
    with ofa.subnet(ofa.search_space.smallest()), paddle.no_grad():
        mine = ofa.model(paddle.to_tensor(ids[own_rows(7)])).numpy()
    found["predictions"], found["labels"] = gather_rows(mine), gather_rows(labels[own_rows(7)])
    single = np.ones((1, 2), dtype=np.float32)[own_rows(1)]
    found["single row"] = gather_rows(single if len(single) else np.zeros(0))
    found["no row"] = gather_rows(np.zeros((0, 2)))
    found["mean"] = mean_over_ranks(paddle.to_tensor([1, 2 * distributed.get_rank()]), 0.5).numpy()
    return found


def failures() -> Found:
    rank = distributed.get_rank()
    sparse = nn.Embedding(5, 2, sparse=True)
    sparse(paddle.to_tensor([1])).sum().backward()
    return {
        "differing text": failure(lambda: check_same(f"width {rank}", "the sub-network")),
        "differing models": failure(lambda: broadcast_parameters(nn.Linear(2, 2 + rank))),
        "differing rows": failure(lambda: gather_rows(np.zeros((1, 2 + rank)))),
        "sparse": failure(lambda: reduce_gradients(sparse.parameters())),
    }


def failure(action: Callable[[], Any]) -> str:
    """The error's message, "" where there is none."""
    try:
        action()
    except OfaSlimError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder: Path) -> None:
    outcome = run()
    np.savez(folder / f"rank{distributed.get_rank()}.npz", **outcome)
