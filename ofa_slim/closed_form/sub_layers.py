"""The sub-layers of a model's blocks, and running a model from one block to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.nested import first_tensor
from ofa_slim.closed_form.calibration import Batch
from ofa_slim.errors import CalibrationError, OfaSlimError
from ofa_slim.supernet.axis import Axis
from ofa_slim.supernet.families import find_stacks, left_out, stack_axes
from ofa_slim.supernet.paths import joined, layer_at


@dataclass(frozen=True)
class SubLayer:
    """An attention or a feed-forward part of a block, by the matrix that writes into the residual stream.

    Attributes:
        axis: the axis of its heads or neurons, at full size.
        block: path of the block in the model.
        matrix: path of the output matrix in the model, a Linear of weight [inputs, hidden size].
        unit: inputs of the matrix per head or neuron.
    """

    axis: Axis
    block: str
    matrix: str
    unit: int


def sub_layers(model: nn.Layer) -> list[SubLayer]:
    """The sub-layers of every block of a plain model, or of a supernet that runs in full, bottom up.

    Raises: CalibrationError where there is no stack of a known family.
    """
    found = list(_with_matrix(model))
    if not found:
        raise _no_stack(model)
    return found


def _no_stack(model: nn.Layer) -> CalibrationError:
    return CalibrationError(
        f"this {type(model).__name__} has no stack of blocks of a known family; register_family takes a table"
    )


def _with_matrix(model: nn.Layer) -> Iterator[SubLayer]:
    for stack in find_stacks(model):
        axes = [axis for axis in stack_axes(model, stack) if isinstance(axis, Axis)]
        for block in stack.blocks:
            for axis in axes:
                for slot in axis.slots:
                    matrix = layer_at(model, slot.layer) if slot.layer.startswith(f"{block}.") else None
                    if slot.role == "in" and isinstance(matrix, nn.Linear):
                        yield SubLayer(axis, block, slot.layer, slot.unit)


@dataclass(frozen=True)
class Writer:
    """What writes a sub-layer's output into the residual stream.

    Attributes:
        block: path of the block in the model.
        layer: path of the output matrix, or of the bias that alone remains of a sub-layer that is left out.
        matrix: path of the output matrix in a block from which nothing is left out.
    """

    block: str
    layer: str
    matrix: str


def writers(model: nn.Layer) -> list[Writer]:
    """What writes into the residual stream of a model, block by block; see `sub_layers`, also of what is left out.

    Raises: CalibrationError where there is no stack of a known family.
    """
    own = {(part.block, part.axis.name.rpartition(".")[2]): part.matrix for part in _with_matrix(model)}
    found = []
    for stack in find_stacks(model):
        gone = {(block, row.name): row.bypass for block, _, row in left_out(stack)}
        for block, row in ((block, row) for block in stack.blocks for row in stack.family.axes):
            bypass, matrix = gone.get((block, row.name)), own.get((block, row.name))
            if bypass is not None:
                found.append(Writer(block, joined(block, bypass.output), bypass.matrix))
            elif matrix is not None:
                found.append(Writer(block, matrix, matrix[len(block) + 1 :]))
    if not found:
        raise _no_stack(model)
    return found


class _Reached(Exception):
    """The last block that is of interest has run."""


@dataclass
class Stream:
    """What the blocks before some call gave for one batch, so that they need not run again.

    Attributes:
        outputs: by stack, the output of its last call so far, whatever its form.
    """

    outputs: dict[int, Any] = field(default_factory=dict)


class BlockRunner:
    """Runs a model from one call of a block to another.

    A model's own forward always runs, with the blocks before and after the part of interest left out, so masks and
    other arguments are those of the model.

    Args:
        model: a plain model, or a supernet that runs in full.
        batch: for learning in which order the blocks are called.

    Attributes:
        calls: path of the block of every call, in order; a block that is called again and again is there as often.
    """

    def __init__(self, model: nn.Layer, batch: Batch) -> None:
        self.model = model
        self._blocks: dict[str, tuple[int, nn.Layer]] = {
            path: (number, block)
            for number, stack in enumerate(find_stacks(model))
            for path, block in stack.blocks.items()
        }
        self.calls: list[str] = []

        def call(path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self.calls.append(path)
            return forward(*args, **kwargs)

        with self._forwards(call):
            self._call(batch)

    def run(
        self,
        batch: Batch,
        stream: Stream,
        start: int,
        stop: int | None,
        watched: Sequence[tuple[str, str]] = (),
        until: tuple[tuple[str, str], int] | None = None,
        keep: int | None = None,
    ) -> tuple[Any, Stream, dict[tuple[str, str], list[paddle.Tensor]]]:
        """Runs the calls from `start` to before `stop`.

        Args:
            batch: the model's inputs.
            stream: what the calls before `start` gave; it stays as it is.
            start: number of the first call that runs.
            stop: number of the call to stop before; None: run to the end.
            watched: ``(path of a layer, "input" or "output")`` of what to return.
            until: one of them, and after how many times of it nothing more of the last call needs to run; only where
                `stop` is given.
            keep: number of the call before which the returned stream is; None: it is that after all calls.

        Returns: the model's output, None where it stopped before; the stream; what was watched, one entry for each time
            that the layer ran.
        """
        after, count, kept = Stream(dict(stream.outputs)), 0, stream

        def call(path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal count, kept
            number, count = count, count + 1
            if number == keep:
                kept = Stream(dict(after.outputs))
            stack = self._blocks[path][0]
            if number < start:
                return stream.outputs[stack]
            after.outputs[stack] = forward(*args, **kwargs)
            if (path, "output") in seen:
                seen[path, "output"].append(first_tensor(after.outputs[stack]))
            if number + 1 == stop:
                raise _Reached
            return after.outputs[stack]

        output = None
        enough = None if stop is None else until
        with self._watching(watched, enough) as seen, self._forwards(call):
            try:
                output = self._call(batch)
            except _Reached:
                pass
        return output, after if keep is None else kept, seen

    def _call(self, batch: Batch) -> Any:
        try:
            return batch.example.call(self.model)
        except (_Reached, OfaSlimError):
            raise
        except Exception as error:  # whatever the model's forward raises
            raise CalibrationError(
                f"{type(self.model).__name__} does not run on the calibration batches, here on batch {batch.number} "
                f"({type(error).__name__}: {error}); a batch holds inputs without labels, in order or by name"
            ) from error

    @contextmanager
    def _forwards(self, call: Callable[..., Any]) -> Iterator[None]:
        """Every block calls ``call(its path, its own forward, ...)`` inside the block of code."""
        before = {path: vars(block).get("forward") for path, (_, block) in self._blocks.items()}
        try:
            for path, (_, block) in self._blocks.items():
                vars(block)["forward"] = _bound(call, path, block.forward)
            yield
        finally:
            for path, (_, block) in self._blocks.items():
                if before[path] is None:
                    vars(block).pop("forward", None)
                else:
                    vars(block)["forward"] = before[path]

    @contextmanager
    def _watching(
        self, watched: Sequence[tuple[str, str]], enough: tuple[tuple[str, str], int] | None
    ) -> Iterator[dict[tuple[str, str], list[paddle.Tensor]]]:
        seen: dict[tuple[str, str], list[paddle.Tensor]] = {key: [] for key in watched}
        hooks = []
        try:
            # Hooks on a block itself would not run where the call is the last one.
            for path, side in (key for key in watched if key[0] not in self._blocks):
                last = enough[1] if enough is not None and enough[0] == (path, side) else None
                hooks.append(_watch(layer_at(self.model, path), side, seen[path, side], last))
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def _bound(call: Callable[..., Any], path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: call(path, forward, *args, **kwargs)


def _watch(layer: nn.Layer, side: str, seen: list[paddle.Tensor], last: int | None) -> Any:
    """Records what a layer reads or returns; the run ends with the record of number `last`."""

    def record(tensor: Any) -> None:
        seen.append(tensor)
        if len(seen) == last:
            raise _Reached

    if side == "input":
        return cast(Any, layer.register_forward_pre_hook)(lambda _, inputs: record(inputs[0] if inputs else None))
    return cast(Any, layer.register_forward_post_hook)(lambda _, inputs, output: record(first_tensor(output)))


def residual_sums(runner: BlockRunner, batch: Batch, parts: Sequence[Writer]) -> Mapping[str, tuple[str, str]]:
    """Where a model has the residual stream right after each sub-layer.

    The output of each sub-layer is changed by random numbers: where just these numbers are added to what a layer of
    the block reads, or to what the block returns, is the sum of residual and sub-layer.

    Returns: for the path of each of these layers ``(path of a layer, "input" or "output")``, as in `BlockRunner.run`.

    Raises: CalibrationError where a sub-layer's output is not added to a residual stream.
    """
    found, rng = {}, np.random.default_rng(0)
    stream, at = Stream(), 0
    for part in sorted(parts, key=lambda part: runner.calls.index(part.block)):
        block = layer_at(runner.model, part.block)
        watched = [(f"{part.block}.{path}", "input") for path, _ in block.named_sublayers()]
        # An attention gets its inputs by name from some models; only layers that read one tensor are watched.
        watched = [key for key in watched if not isinstance(layer_at(runner.model, key[0]), nn.LayerList)]
        watched.append((part.block, "output"))
        start = runner.calls.index(part.block)
        if start > at:
            _, stream, _ = runner.run(batch, stream, at, start)
            at = start
        own = (part.layer, "output")
        _, _, before = runner.run(batch, stream, start, start + 1, [*watched, own])
        output = before[own][0]
        noise = paddle.to_tensor(rng.standard_normal(output.shape)).astype(output.dtype)
        matrix = layer_at(runner.model, part.layer)
        hook = matrix.register_forward_post_hook(lambda _, inputs, output, noise=noise: output + noise)
        try:
            _, _, after = runner.run(batch, stream, start, start + 1, watched)
        finally:
            hook.remove()
        sums = [key for key in watched if before[key] and _added(before[key][0], after[key][0], noise, output)]
        if not sums:
            raise CalibrationError(f"the output of {part.layer} is not added to a residual stream that can be seen")
        found[part.layer] = sums[0]
    return found


def _added(before: Any, after: Any, noise: paddle.Tensor, output: paddle.Tensor) -> bool:
    if not isinstance(before, paddle.Tensor) or list(before.shape) != list(noise.shape):
        return False
    size = float(before.abs().max())
    # Where it is the sub-layer's own output (of a dropout after it), nothing has been added yet.
    return float((after - before - noise).abs().max()) < 1e-4 * max(size, 1.0) and (
        float((before - output).abs().max()) > 1e-4 * size
    )
