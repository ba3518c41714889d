"""Data-parallel training: every process runs the same sub-networks on its rows, and gradients meet once per step.

Everything here is harmless with one process, so a script that uses it runs the same without
``paddle.distributed.launch``. With several, every function whose docstring does not say otherwise has to be called by
all of them, in the same order.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest
from typing import Any, Literal, NoReturn

import numpy as np
import paddle
from paddle import distributed, nn

from ofa_slim.errors import ConfigError, ParallelError

__all__ = [
    "alone",
    "barrier",
    "broadcast_parameters",
    "check_same",
    "gather_rows",
    "is_writer",
    "leave",
    "mean_over_ranks",
    "own_rows",
    "position",
    "reduce_gradients",
    "start",
    "training_rows",
]

BUFFER_BYTES = 64 << 20

Travel = Literal["float32", "float64"]

_is_alone: ContextVar[bool] = ContextVar("alone", default=False)

_SHOWN = 100  # characters of a text that differs


def start() -> None:
    """Joins the processes that ``paddle.distributed.launch`` has started; does nothing where it has started one.

    Its option ``--backend gloo`` is for CPUs.
    """
    if distributed.get_world_size() > 1 and not distributed.is_initialized():
        distributed.init_parallel_env()


def leave(status: int = 0) -> NoReturn:
    """Ends this process with an exit status, as the last line of a script; needs no other process.

    One process ends as `sys.exit` does. Of several, each runs what is registered with `atexit` and is gone at once:
    Paddle's threads that talk to the other processes would run on while Python is taken apart. On a busy machine a
    finished process has ended in between with a failure and no message, which the launcher took for a failed job.

    Args:
        status: 0 for success, at most 255.
    """
    if distributed.get_world_size() == 1:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def is_writer() -> bool:
    """Whether this process, rank 0, is the one that writes files and reports; needs no other process."""
    return distributed.get_rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process works alone: all rows, sums and averages are its own; needs no other process."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


def barrier() -> None:
    """Waits until every process has come here."""
    if _ranks() > 1:
        distributed.barrier()


def position() -> tuple[int, int]:
    """The rank of this process and the number of processes, 0 and 1 inside `alone`; needs no other process."""
    return (0, 1) if _is_alone.get() else (distributed.get_rank(), distributed.get_world_size())


def own_rows(count: int) -> slice:
    """Which rows of a batch or data set are this process's; needs no other process.

    Args:
        count: rows of all processes together.

    Returns: contiguous shares in order of rank; where they cannot be equal, the last ranks have one row fewer,
        which may be none.

    Raises: ConfigError for a count below 0.
    """
    if count < 0:
        raise ConfigError(f"count is {count}; a number of rows is at least 0")
    rank, ranks = position()
    least, more = divmod(count, ranks)
    first = rank * least + min(rank, more)
    return slice(first, first + least + (rank < more))


def training_rows(count: int) -> tuple[slice, float]:
    """Which rows of a batch this process trains on, and how much they count; needs no other process.

    A process without rows of its own trains on the last one at weight 0: so it samples the same sub-networks as the
    others and takes part in every reduction.

    Args:
        count: rows of the whole batch.

    Returns: the rows, at least one, and the weight for the mean loss over them: the average over processes of
        weight × mean is the mean over the whole batch. It is the `scale` of `OFA.train_step`.

    Raises: ConfigError for a count below 1.
    """
    if count < 1:
        raise ConfigError(f"count is {count}; a batch to train on has at least 1 row")
    own = own_rows(count)
    share = own.stop - own.start
    return own if share else slice(count - 1, count), share * position()[1] / count


def broadcast_parameters(model: nn.Layer) -> None:
    """Gives every process the parameters and buffers of rank 0, in place.

    Args:
        model: a model or an `OFA`, of which the `mapping_op` projections are included. The teacher is not: every
            process loads the same.

    Raises: ParallelError where the processes' models differ in names, shapes or dtypes; nothing is sent then.
    """
    if _ranks() == 1:
        return
    named = [*model.named_parameters(), *model.named_buffers()]
    # The projections of an OFA are not among its parameters.
    projections = getattr(model, "netAs_param", ())
    named += [(f"netAs_param.{number}", parameter) for number, parameter in enumerate(projections)]
    signature = [f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in named]
    signatures = _gathered(signature)
    for rank, other in enumerate(signatures):
        for wanted, found in zip_longest(signatures[0], other, fillvalue="nothing"):
            if wanted != found:
                raise ParallelError(f"the model of rank {rank} has {found} where that of rank 0 has {wanted}")
    with paddle.no_grad():
        for _, tensor in named:
            distributed.broadcast(tensor, src=0)


@paddle.no_grad()
def reduce_gradients(parameters: Iterable[paddle.Tensor], buffer_bytes: int = BUFFER_BYTES) -> None:
    """Averages gradients over all processes, in place; call it once per optimizer step, before it.

    The result is that of one process: a parameter that no process has a gradient for keeps None, and where some have
    one the others count as zeros. Gradients travel in a few buffers, in the same order everywhere; half-precision ones
    as float32, so that their sum cannot overflow. Nothing is read back from the device, except by a process that lacks
    a gradient which it should have.

    Args:
        parameters: the same ones in the same order on every process; for an `OFA` its `parameters()` and, where
            they train, its `netAs_param`. Those with `stop_gradient` are left out.
        buffer_bytes: largest size of a buffer; a larger parameter gets one of its own.

    Raises: ConfigError for a sparse gradient; nothing is sent then.
    """
    ranks = _ranks()
    if ranks == 1:
        return
    trained = [parameter for parameter in parameters if not parameter.stop_gradient]
    for parameter in trained:
        if parameter.grad is not None and parameter.grad.is_selected_rows():
            raise ConfigError(f"the gradient of {parameter.name!r} is sparse; make its embedding with sparse=False")
    for bucket in _buckets(trained, buffer_bytes):
        _average(bucket, ranks)


def mean_over_ranks(values: paddle.Tensor, weight: float = 1.0) -> paddle.Tensor:
    """The average of some numbers over all processes, for instance of losses.

    Args:
        values: the same shape on every process; float64, or any dtype that float32 can hold.
        weight: of this process, from `training_rows`.

    Returns: a new tensor of the same shape, float64 or float32, without a graph, still on the device.
    """
    mean = values.detach().astype(_travel_dtype(values)) * weight
    ranks = _ranks()
    if ranks == 1:
        return mean
    distributed.all_reduce(mean)
    return mean / ranks


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, in order of rank: what `own_rows` has taken apart, in its original order.

    Args:
        rows: [own rows, ...], their number may differ between processes. Whoever has none may give an empty array of
            any shape and dtype.

    Returns: [all rows, ...], the same on every process.

    Raises: ParallelError, on every process, where rows differ in shape or dtype.
    """
    parts = [part for part in _gathered(np.asarray(rows)) if len(part)]
    if not parts:
        return rows
    kinds = [f"{list(part.shape[1:])} {part.dtype}" for part in parts]
    if len(set(kinds)) > 1:
        raise ParallelError(f"rows to gather differ in shape or dtype between processes: {', '.join(kinds)}")
    return np.concatenate(parts)


def check_same(text: str, name: str) -> None:
    """Checks that every process has the same text, such as the sub-networks of a step or the state of `OFA.rng`.

    Args:
        text: of any length; a hash of it and its first characters are sent.
        name: what it is, for the error.

    Raises: ParallelError, on every process, that names the ranks which differ from rank 0.
    """
    seen = _gathered((hashlib.sha256(text.encode()).hexdigest(), text[:_SHOWN]))
    different = [rank for rank, (digest, _) in enumerate(seen) if digest != seen[0][0]]
    if different:
        raise ParallelError(
            f"{name} differs between processes: rank 0 has {seen[0][1]!r}, not so ranks {different}; the first of them "
            f"has {seen[different[0]][1]!r}"
        )


def _ranks() -> int:
    """How many processes train together; 1 inside `alone`.

    Raises: ParallelError where there are several and `start` was not called.
    """
    _, ranks = position()
    if ranks > 1 and not distributed.is_initialized():
        raise ParallelError(f"this is one of {ranks} processes, but they were not joined; call parallel.start() first")
    return int(ranks)


def _gathered(value: Any) -> list[Any]:
    """The value of every process, in order of rank."""
    if _ranks() == 1:
        return [value]
    values: list[Any] = []
    distributed.all_gather_object(values, value)
    return values


def _travel_dtype(tensor: paddle.Tensor) -> Travel:
    """The dtype to sum in; gloo's own sums of float16 are wrong (1 + 2 is infinite on 3.3.1)."""
    return "float64" if tensor.dtype == paddle.float64 else "float32"


def _buckets(parameters: Sequence[paddle.Tensor], size: int) -> Iterator[list[paddle.Tensor]]:
    """Groups of parameters whose gradients share a buffer of at most so many bytes.

    It must come out the same on every process, so it depends on the parameters alone and not on their gradients.
    """
    widths: dict[Travel, int] = {"float32": 4, "float64": 8}
    for dtype, width in widths.items():
        bucket: list[paddle.Tensor] = []
        filled = 0
        for parameter in parameters:
            if _travel_dtype(parameter) != dtype:
                continue
            needed = width * (int(parameter.size) + 1)
            if bucket and filled + needed > size:
                yield bucket
                bucket, filled = [], 0
            bucket.append(parameter)
            filled += needed
        if bucket:
            yield bucket


def _average(bucket: Sequence[paddle.Tensor], ranks: int) -> None:
    """Averages the gradients of some parameters in one buffer, which ends with a number per parameter: who has one."""
    dtype = _travel_dtype(bucket[0])
    gradients = [parameter.grad for parameter in bucket]
    missing = any(gradient is None for gradient in gradients)
    flat = [
        paddle.zeros([parameter.size], dtype) if gradient is None else gradient.reshape([-1]).astype(dtype)
        for parameter, gradient in zip(bucket, gradients, strict=True)
    ]
    # Filled on the device where it can be: a copy from the host would wait for what runs there.
    owners = (
        paddle.to_tensor([float(gradient is not None) for gradient in gradients], dtype)
        if missing
        else paddle.ones([len(bucket)], dtype)
    )
    buffer = paddle.concat([*flat, owners])
    del flat
    distributed.all_reduce(buffer)
    buffer.scale_(1.0 / ranks)
    owned = buffer[-len(bucket) :].numpy() > 0 if missing else None
    first = 0
    for number, (parameter, gradient) in enumerate(zip(bucket, gradients, strict=True)):
        average = buffer[first : first + parameter.size]  # a view
        first += parameter.size
        if gradient is not None:
            paddle.assign(average.reshape(gradient.shape).astype(gradient.dtype), gradient)
        elif owned is not None and owned[number]:
            parameter.grad = average.reshape(parameter.shape).astype(parameter.dtype).clone()
