"""The tanh approximation of GELU, which paddle2onnx writes as the exact GELU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ofa_slim.errors import ExportError
from ofa_slim.export.formats.needs import needed

# With u = x / sqrt(2), which the exact form takes the erf of, the approximation takes the tanh of
# sqrt(2 / pi) (x + 0.044715 x^3) = u (_FIRST + _THIRD u^2). Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
_FIRST = 2 / math.sqrt(math.pi)
_THIRD = math.sqrt(2 / math.pi) * 0.044715 * 2 * math.sqrt(2)


def approximate_gelus(model: Any, inference: Path) -> None:
    """Puts the approximation where the program has it, in place, in an ONNX model made from that program.

    Args:
        model: the ONNX model; opsets before 20 have no GELU, so each is an ``Erf`` and the nodes around it.
        inference: the folder with the program.

    Raises: ExportError where the two do not have the same number of them.
    """
    program: Any = paddle.jit.load(str(inference / "model")).program()
    kinds = [
        op.name().endswith("gelu") and bool(op.attrs()["approximate"])
        for op in program.global_block().ops
        if op.name().rpartition(".")[2] in ("gelu", "erf")
    ]
    if not any(kinds):
        return
    erfs = [node for node in model.graph.node if node.op_type == "Erf"]
    if len(erfs) != len(kinds):
        raise ExportError(f"the program has {len(kinds)} GELUs, its ONNX model {len(erfs)}")
    helper, numpy_helper = needed("onnx").helper, needed("onnx").numpy_helper
    for name, value in (("gelu_first", _FIRST), ("gelu_third", _THIRD)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    nodes = []
    wanted = {id(node) for node, approximate in zip(erfs, kinds, strict=True) if approximate}
    for node in model.graph.node:
        if id(node) not in wanted:
            nodes.append(node)
            continue
        given, made = node.input[0], node.output[0]
        nodes += [
            helper.make_node("Mul", [given, given], [f"{made}.squared"], f"{made}.square"),
            helper.make_node("Mul", [f"{made}.squared", "gelu_third"], [f"{made}.third"], f"{made}.scale"),
            helper.make_node("Add", [f"{made}.third", "gelu_first"], [f"{made}.factor"], f"{made}.add"),
            helper.make_node("Mul", [f"{made}.factor", given], [f"{made}.argument"], f"{made}.times"),
            helper.make_node("Tanh", [f"{made}.argument"], [made], f"{made}.tanh"),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
