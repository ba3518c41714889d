"""The states of Paddle's random generators."""

from __future__ import annotations

import logging
from typing import Any

import paddle

logger = logging.getLogger(__name__)

RANDOM = "paddle-random"  # the file's name


def paddle_state() -> dict[str, list[dict[str, Any]]]:
    """The states of the CPU's generator and of those of the device in use.

    The copy protocol of a state object gives its device number, seed, offset, and engine as text: all there is to
    write, so no pickle is needed.
    """
    return {device: [_fields(state) for state in paddle.get_rng_state(device)] for device in {"cpu": 0, _device(): 0}}


def random_problems(saved: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The reasons why saved states cannot be set; empty if they can."""
    problems = []
    for device, states in saved.items():
        if device not in ("cpu", _device()):
            # A warning, not an error: a run may go on elsewhere, only not with the same bits.
            logger.warning("the checkpoint's random state of %s is not used, as the run is not on it now", device)
            continue
        present = len(paddle.get_rng_state(device))
        if present != len(states):
            problems.append(f"random states of {len(states)} {device} devices were saved, {present} are here")
        elif any(_fields(_made(state)) != state for state in states):
            problems.append(f"Paddle {paddle.version.full_version} does not read the saved random state of {device}")
    return problems


def set_paddle_state(saved: dict[str, list[dict[str, Any]]]) -> None:
    """Sets states that had no `random_problems`."""
    own = paddle.device.get_device()
    try:
        for device, states in saved.items():
            if device in ("cpu", _device()):
                # Before 3.3 `set_rng_state` fails for another device than the one in use.
                paddle.device.set_device(own if device == _device() else device)
                paddle.set_rng_state([_made(state) for state in states])
                paddle.device.set_device(own)
    finally:
        paddle.device.set_device(own)


def _device() -> str:
    """The kind of device in use."""
    return paddle.device.get_device().split(":")[0]


def _fields(state: Any) -> dict[str, Any]:
    device, seed, offset, engine = state.__getstate__()
    return {"device": device, "seed": seed, "offset": offset, "engine": bytes(engine).decode("ascii")}


def _made(state: dict[str, Any]) -> Any:
    kind: Any = type(paddle.get_rng_state("cpu")[0])
    made = kind.__new__(kind)
    made.__setstate__((state["device"], state["seed"], state["offset"], list(state["engine"].encode("ascii"))))
    return made
