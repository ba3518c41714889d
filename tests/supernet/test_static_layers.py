"""Every elastic layer by itself in a static graph, on an input narrower than the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ofa_slim.supernet import (
    Block,
    SuperBatchNorm,
    SuperBatchNorm1D,
    SuperBatchNorm2D,
    SuperBatchNorm3D,
    SuperConv1D,
    SuperConv1DTranspose,
    SuperConv2D,
    SuperConv2DTranspose,
    SuperConv3D,
    SuperConv3DTranspose,
    SuperDepthwiseConv2D,
    SuperDepthwiseConv2DTranspose,
    SuperEmbedding,
    SuperGroupConv2D,
    SuperGroupConv2DTranspose,
    SuperGroupNorm,
    SuperInstanceNorm1D,
    SuperInstanceNorm2D,
    SuperInstanceNorm3D,
    SuperLayerNorm,
    SuperLinear,
    SuperPReLU,
    SuperSeparableConv2D,
    SuperSyncBatchNorm,
)

LINE, MAP, BOX = [2, 5, 7], [2, 5, 7, 7], [2, 5, 4, 4, 4]
BOTH = {"channel": 3, "kernel_size": 3}
CASES: dict[str, tuple[Callable[[], nn.Layer], list[int], dict[str, Any]]] = {
    "SuperLinear": (lambda: SuperLinear(8, 6), [2, 5], {"channel": 3}),
    "SuperEmbedding": (lambda: SuperEmbedding(9, 6), [2, 3], {"channel": 3}),
    "SuperConv1D": (lambda: SuperConv1D(8, 6, 5, padding=2), LINE, BOTH),
    "SuperConv2D": (lambda: SuperConv2D(8, 6, 5, padding=2), MAP, BOTH),
    "SuperConv2D of transformed kernels": (
        lambda: SuperConv2D(8, 6, 5, {"kernel_size": (3, 5)}, True, padding=2),
        MAP,
        {"expand_ratio": 0.5, "kernel_size": 3},
    ),
    "SuperConv3D": (lambda: SuperConv3D(8, 6, 3, padding=1), BOX, {"channel": 3}),
    "SuperGroupConv2D": (lambda: SuperGroupConv2D(8, 6, 3, groups=2), [2, 4, 7, 7], {"channel": 4}),
    "SuperDepthwiseConv2D": (lambda: SuperDepthwiseConv2D(8, 8, 3), MAP, {}),
    "SuperSeparableConv2D": (lambda: SuperSeparableConv2D(8, 6, 3, padding=1), MAP, {"channel": 3}),
    "SuperConv1DTranspose": (lambda: SuperConv1DTranspose(8, 6, 3), LINE, {"channel": 3}),
    "SuperConv2DTranspose": (lambda: SuperConv2DTranspose(8, 6, 5, padding=2), MAP, BOTH),
    "SuperConv3DTranspose": (lambda: SuperConv3DTranspose(8, 6, 3), BOX, {"channel": 3}),
    "SuperGroupConv2DTranspose": (lambda: SuperGroupConv2DTranspose(8, 6, 3, groups=2), [2, 4, 7, 7], {"channel": 4}),
    "SuperDepthwiseConv2DTranspose": (lambda: SuperDepthwiseConv2DTranspose(8, 8, 3), MAP, {}),
    "SuperBatchNorm": (lambda: SuperBatchNorm(8), MAP, {}),
    "SuperBatchNorm1D": (lambda: SuperBatchNorm1D(8), [4, 5], {}),
    "SuperBatchNorm2D": (lambda: SuperBatchNorm2D(8), MAP, {}),
    "SuperBatchNorm3D": (lambda: SuperBatchNorm3D(8), BOX, {}),
    "SuperSyncBatchNorm": (lambda: SuperSyncBatchNorm(8), MAP, {}),
    "SuperInstanceNorm1D": (lambda: SuperInstanceNorm1D(8), LINE, {}),
    "SuperInstanceNorm2D": (lambda: SuperInstanceNorm2D(8), MAP, {}),
    "SuperInstanceNorm3D": (lambda: SuperInstanceNorm3D(8), BOX, {}),
    "SuperGroupNorm": (lambda: SuperGroupNorm(2, 8), [2, 4, 7, 7], {}),
    "SuperLayerNorm": (lambda: SuperLayerNorm(8), [2, 5], {}),
    "SuperLayerNorm of a shape": (lambda: SuperLayerNorm([2, 3]), [2, 2, 3], {}),
    "SuperPReLU": (lambda: SuperPReLU(8), MAP, {}),
    "Block": (lambda: Block(SuperConv2D(8, 6, 3)), MAP, {"channel": 3}),
}


def trained_once(
    make: Callable[[], nn.Layer], x: np.ndarray[Any, Any], call: dict[str, Any], training: bool
) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """The weights before, the output, and the weights behind a step of descent, in a static graph."""
    paddle.enable_static()
    try:
        main, start = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, start):
            layer = make()
            layer.train() if training else layer.eval()
            given = paddle.static.data("x", [None, *x.shape[1:]], str(x.dtype))
            given.stop_gradient = x.dtype != np.float32
            output = layer(given, **call)
            if training:
                paddle.optimizer.SGD(0.1).minimize((output**2).sum())
        executor, scope = paddle.static.Executor(), paddle.static.Scope()
        names = {key: value.name for key, value in layer.state_dict().items()}

        def weights() -> dict[str, np.ndarray[Any, Any]]:
            return {key: np.array(scope.find_var(name).get_tensor()) for key, name in names.items()}

        with paddle.static.scope_guard(scope):
            executor.run(start)
            before = weights()
            found = executor.run(main, feed={"x": x}, fetch_list=[output])[0]
            return before, found, weights()
    finally:
        paddle.disable_static()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_static_graph_computes_and_learns_what_the_dynamic_layer_does(name: str, training: bool) -> None:
    make, shape, call = CASES[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, shape) if name == "SuperEmbedding" else rng.standard_normal(shape).astype("float32")
    before, found, behind = trained_once(make, x, call, training)
    layer = make()
    layer.train() if training else layer.eval()
    layer.set_state_dict({key: paddle.to_tensor(value) for key, value in before.items()})
    # The backward of Paddle's own instance norm and PReLU fails where their input needs no gradient (3.3.1).
    output = layer(paddle.to_tensor(x, stop_gradient=x.dtype != np.float32), **call)
    np.testing.assert_allclose(found, output.numpy(), atol=1e-5)
    if training:
        (output**2).sum().backward()
        paddle.optimizer.SGD(0.1, parameters=layer.parameters()).step()
    for key, value in layer.state_dict().items():
        np.testing.assert_allclose(behind[key], value.numpy(), rtol=1e-4, atol=1e-4, err_msg=key)
