"""Trainings of a small network with optimizers, which are saved, restored and compared bit by bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F


class Net(nn.Layer):
    """Two branches with dropout; batch norm has buffers, and only one branch runs in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1D(8)
        self.branches = nn.LayerList([nn.Linear(8, 2), nn.Linear(8, 2)])
        self.tied = self.first

    def forward(self, x: paddle.Tensor, branch: int) -> paddle.Tensor:
        return self.branches[branch](F.dropout(F.relu(self.norm(self.first(x))), 0.5))


class Order:
    """A sampler of the user's own."""

    def __init__(self) -> None:
        self.rows = np.arange(5, dtype=np.uint16)
        self.seen: dict[Any, Any] = {}
        self.loss = math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seen": self.seen, "loss": self.loss}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.seen, self.loss = state["rows"], state["seen"], state["loss"]


class Scaler(paddle.amp.GradScaler):
    """Paddle's own is never enabled on a CPU; this one's state is of the same form as an enabled one's there."""

    def __init__(self) -> None:
        super().__init__(enable=False)
        self.state: dict[str, Any] = {"scale": np.array([64.0], np.float32), "incr_ratio": 2.0, "incr_count": 0}

    def update(self) -> None:
        self.state = {**self.state, "scale": self.state["scale"] * 0.3, "incr_count": self.state["incr_count"] + 1}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


Make = Callable[[list[paddle.Tensor]], dict[str, Any]]


def adam(parameters: list[paddle.Tensor], **options: Any) -> dict[str, Any]:
    rate = paddle.optimizer.lr.StepDecay(0.05, 2)
    return {"optimizer": paddle.optimizer.Adam(rate, parameters=parameters, **options), "scheduler": rate}


def adamw(parameters: list[paddle.Tensor]) -> dict[str, Any]:
    rate = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.PolynomialDecay(0.05, 9), 3, 0.0, 0.05)
    clip = nn.ClipGradByGlobalNorm(1.0)
    return {"optimizer": paddle.optimizer.AdamW(rate, parameters=parameters, grad_clip=clip), "scheduler": rate}


def momentum(parameters: list[paddle.Tensor]) -> dict[str, Any]:
    rate = paddle.optimizer.lr.ReduceOnPlateau(0.05, patience=0)
    return {"optimizer": paddle.optimizer.Momentum(rate, parameters=parameters), "scheduler": rate}


def fixed_rate(parameters: list[paddle.Tensor]) -> dict[str, Any]:
    return {"optimizer": paddle.optimizer.Adam(0.05, parameters=parameters)}


OPTIMIZERS: dict[str, Make] = {
    "adam": adam,
    "amsgrad": lambda parameters: adam(parameters, amsgrad=True),
    "adamw": adamw,
    "momentum": momentum,
    "fixed rate": fixed_rate,
}


def run_of(make: Make = adamw) -> dict[str, Any]:
    """Everything anew, as a process that starts does; parameters' names count on."""
    net = Net()
    return {
        "model": net,
        **make(net.parameters()),
        "scaler": Scaler(),
        "rng": np.random.default_rng(5),
        "order": Order(),
    }


def train(parts: dict[str, Any], start: int, stop: int, set_to_zero: bool = True) -> None:
    net, optimizer, scaler, order = parts["model"], parts["optimizer"], parts["scaler"], parts["order"]
    for step in range(start, stop):
        x = paddle.to_tensor(parts["rng"].standard_normal((4, 6)).astype(np.float32))
        # The second branch is first reached behind the restore; then steps leave one of the two out.
        loss = net(x, int(step > 3 and step % 2)).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.clear_grad(set_to_zero=set_to_zero)
        if isinstance(parts.get("scheduler"), paddle.optimizer.lr.ReduceOnPlateau):
            parts["scheduler"].step(loss)
        elif "scheduler" in parts:
            parts["scheduler"].step()
        else:
            optimizer.set_lr(0.05 / (step + 1))
        order.rows, order.seen[step] = parts["rng"].permutation(order.rows), (step, loss.detach())


def bits(state: Any) -> Any:
    """Something that is equal where every bit and type is."""
    if isinstance(state, paddle.Tensor):
        return "tensor", str(state.dtype), tuple(state.shape), state.numpy().tobytes()
    if isinstance(state, (np.ndarray, np.generic)):
        return type(state).__name__, state.dtype.str, state.shape, state.tobytes()
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state).__name__, [bits(value) for value in state]
    return type(state).__name__, repr(state)


def all_bits(parts: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, part in parts.items():
        state = part.bit_generator.state if name == "rng" else part.state_dict()
        if name == "optimizer":  # its keys are names that count from process start
            names = {parameter.name: key for key, parameter in parts["model"].state_dict().items()}
            state = {replaced(key, names): value for key, value in state.items()}
        found[name] = bits(state)
    found["gradients"] = {
        key: bits(parameter.grad) for key, parameter in parts["model"].named_parameters()
    }  # None is no zero
    found["rate"] = parts["optimizer"].get_lr()
    found["next"] = bits(paddle.rand([3]))
    return found


def replaced(key: str, names: dict[str, str]) -> str:
    owner = next((name for name in names if key.startswith(f"{name}_")), None)
    return key if owner is None else names[owner] + key.removeprefix(owner)


class Holder:
    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state
